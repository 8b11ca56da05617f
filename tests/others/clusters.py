"""Clusters of brokers. Names have to lead wherever their owner is, and a node that dies must not keep anybody waiting."""

import concurrent.futures
import socket
import threading
import time

import brokers
from lab import Call, Daemon, Failed, Listener, fill, packet, text, tool, version

PORT = 1883
NODES = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
# Calls while a node dies, and the time that each may take once the cluster serves new clients.
CALLS, AT_ONCE, WITHIN = 100, 4, 3.0
# Callers that stand: one may not call often.
DAEMONS = 20
# Time between two calls of a node that stands: a program takes about as long to start.
PAUSE = 0.4
# Nodes that the operator calls by one name, which has all their addresses (/etc/hosts of this namespace).
TOGETHER = f'[[mqtt]]\nid = 3\nhost = "cluster.test"\nport = {PORT}\n'
# The same nodes as brokers of their own, with each of which a node of ours has a session.
EACH = "".join(f'[[mqtt]]\nid = {n}\nhost = "{host}"\nport = {PORT}\n' for n, host in enumerate(NODES, 3))
NAME = "example"


def at(host):
    return f'[[mqtt]]\nid = 3\nhost = "{host}"\nport = {PORT}\n'


class Bare:
    """MQTT clients at each of these nodes, four times a second, until `end`. `stands`: they have sessions, and say SUBSCRIBE. Else
    they say CONNECT."""

    def __init__(self, hosts, stands):
        self.late, self.ended = 0.0, threading.Event()
        self.threads = [threading.Thread(target=self.stand if stands else self.come, args=(host,)) for host in hosts]
        for thread in self.threads:
            thread.start()

    def come(self, host):
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            while not self.ended.wait(0.25):
                pool.submit(lambda: self.greet(host).close())

    def stand(self, host):
        stream, number = self.greet(host), 0
        while not self.ended.wait(0.25):
            number += 1
            self.ask(stream, packet(0x82, b"\0\1" + text(f"bare-{number}") + b"\0"), bytes([0x90, 3, 0, 1, 0]))
        stream.close()

    def greet(self, host):
        stream = socket.create_connection((host, PORT), 20)
        stream.settimeout(20)
        hello = text("MQTT") + bytes([4, 2, 0, 60]) + text(f"bare{time.monotonic_ns()}")
        self.ask(stream, packet(0x10, hello), bytes([0x20, 2, 0, 0]))
        return stream

    def ask(self, stream, request, answer):
        began = time.monotonic()
        try:
            stream.sendall(request)
            good = stream.recv(100) == answer
        except OSError:
            good = False
        now = time.monotonic()
        if not good or now - began > 1:
            self.late = max(self.late, now)

    def end(self):
        """The time at which the last of them was answered that was refused or had to wait for a second."""
        self.ended.set()
        for thread in self.threads:
            thread.join()
        return self.late


class Cluster:
    """Nodes that run. `start` starts the node of that number, also again. `stands`: who calls are daemons."""

    def __init__(self, lab, version, count, start, stands=False):
        self.version, self.count, self.start, self.stands = version, count, start, stands
        # A bridge that finds nobody at the other end tries again late: the first node comes last.
        self.nodes = [start(n) for n in reversed(range(count))][::-1]
        self.servers = EACH if stands else TOGETHER

    def revive(self):
        for n, node in enumerate(self.nodes):
            if node.popen.poll() is not None:
                self.nodes[n] = self.start(n)
                time.sleep(10)


def mosquittos(lab):
    """Two, joined by a bridge that the first opens."""
    program = tool("mosquitto")

    def start(n):
        lines = f"user root\nallow_anonymous true\nlistener {PORT} {NODES[n]}\n"
        if n == 0:
            lines += f"connection bridge\naddress {NODES[1]}:{PORT}\ntopic # both 1\nrestart_timeout 1\n"
        config = lab.write(f"mosquitto{n}.conf", lines)
        return lab.serve(f"mosquitto{n}", program, "-c", config, host=NODES[n], port=PORT)
    cluster = Cluster(lab, version(program, "-h"), 2, start)
    time.sleep(2)
    return cluster


def rabbitmqs(count):
    def make(lab):
        names = [f"rabbit{n}" for n in range(count)]

        def start(n):
            return brokers.rabbitmq(lab, names[n], NODES[n], PORT, 25680 + n, names)
        return Cluster(lab, brokers.rabbitmq_version(), count, start)
    return make


def nats(stands):
    """Each new session is looked up in a replicated stream. While a leader of that stream is chosen, no node answers CONNECT: a
    bare client waited 7 to 12 s, or was cut off after 5. Sessions that stand go on."""
    def make(lab):
        program = tool("nats-server")
        routes = ", ".join(f"nats://{host}:16222" for host in NODES)

        def start(n):
            cluster = f'cluster {{ name: c, listen: "{NODES[n]}:16222", routes: [{routes}] }}'
            values = {"name": f"n{n}", "folder": lab.path(f"store{n}"), "host": NODES[n], "port": PORT, "routes": cluster}
            return lab.start(f"nats{n}", program, "-c", lab.write(f"nats{n}.conf", fill("nats.conf", **values)))
        cluster = Cluster(lab, version(program, "--version"), 3, start, stands)
        # They have to choose who leads before they serve MQTT.
        time.sleep(10)
        return cluster
    return make


def owner(lab, servers):
    others = [arg for caller in lab.callers() for arg in ("--accept", caller)]
    listener = Listener(lab, servers, "--name", NAME, *others, within=60)
    listener.wait("registered", within=60)
    return listener


def everywhere(lab, servers, cluster):
    """From each node to an owner at each node, while all live."""
    good, bad = 0, []
    for there in NODES[:cluster.count]:
        listener = owner(lab, lab.write("there.toml", at(there)))
        for here in NODES[:cluster.count]:
            call = Call(lab, lab.write("here.toml", at(here)), f"{NAME}.peer")
            good += call.good
            bad += [] if call.good else [f"from {here} to {there}: {call.why}"]
        listener.process.end()
    if bad:
        raise Failed(f"{good} of {cluster.count ** 2}: {bad[0]}")
    return f"{good}/{good}"


def dying(n):
    """Calls by address and by name in turn, a few at a time, while that node is killed. Each has to be there within 3 s, or
    within 3 s of when a bare client is served again that asks the cluster for the same."""
    def measure(lab, servers, cluster):
        if n >= cluster.count:
            return "-"
        cluster.revive()
        listener = owner(lab, servers)
        daemons = [Daemon(lab, servers, number) for number in range(DAEMONS)] if cluster.stands else []
        bare, killed = Bare([host for host in NODES[:cluster.count] if host != NODES[n]], cluster.stands), []

        def call(number):
            if number == CALLS // 4:
                cluster.nodes[n].kill()
                killed.append(time.monotonic())
            by_name = number % 2 == 1
            target = f"{NAME}.peer" if by_name else listener.address
            if cluster.stands:
                done = daemons[number % DAEMONS].call(target, number, "" if by_name else "reverse")
                time.sleep(PAUSE)
            else:
                strategies = () if by_name else ("--strategies", "reverse")
                done = Call(lab, servers, target, *strategies, key=lab.caller_key(number), timeout=30)
            # A name is a subscription, and a program's first word is CONNECT; a call by address over a session is neither.
            done.waits = by_name or not cluster.stands
            return done
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(call, range(CALLS)))
        for process in [listener.process, *(daemon.process for daemon in daemons)]:
            process.end()
        served, bad = bare.end(), [call for call in done if not call.good]
        late = [call for call in done if call.good and call.began + call.took > WITHIN + max(call.began, served * call.waits)]
        what = f"{CALLS - len(bad)}/{CALLS} {max(call.took for call in done):.1f} s"
        if served > killed[0]:
            what += f" ({served - killed[0]:.1f})"
        if bad or late:
            raise Failed(f"{what}, {len(late)} over {WITHIN} s: {bad[0].why if bad else 'too slow'}")
        return what
    return measure


COLUMNS = {"names": everywhere} | {f"node {n + 1} dies": dying(n) for n in range(3)}
ROWS = {
    "mosquitto x2, bridged": mosquittos,
    "RabbitMQ x2": rabbitmqs(2),
    "NATS x3": nats(stands=False),
    "NATS x3, daemons": nats(stands=True),
}
