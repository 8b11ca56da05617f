"""Clusters of brokers. Names have to lead wherever their owner is, and a node that dies must not keep anybody waiting."""

import concurrent.futures
import time

import brokers
from lab import Call, Failed, Listener, fill, tool, version

PORT = 1883
NODES = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
# Calls while a node dies, and the time that each may take.
CALLS, AT_ONCE, WITHIN = 100, 4, 3.0
# Nodes that the operator calls by one name, which has all their addresses (/etc/hosts of this namespace).
TOGETHER = f'[[mqtt]]\nid = 3\nhost = "cluster.test"\nport = {PORT}\n'
NAME = "example"


def at(host):
    return f'[[mqtt]]\nid = 3\nhost = "{host}"\nport = {PORT}\n'


class Cluster:
    """Nodes that run. `start` starts the node of that number, also again. Each call may take `within` while one dies."""

    def __init__(self, lab, version, count, start, within=WITHIN):
        self.version, self.count, self.start, self.within = version, count, start, within
        # A bridge that finds nobody at the other end tries again late: the first node comes last.
        self.nodes = [start(n) for n in reversed(range(count))][::-1]
        self.servers = TOGETHER

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


def nats(lab):
    program = tool("nats-server")
    routes = ", ".join(f"nats://{host}:16222" for host in NODES)

    def start(n):
        cluster = f'cluster {{ name: c, listen: "{NODES[n]}:16222", routes: [{routes}] }}'
        text = fill("nats.conf", name=f"n{n}", folder=lab.path(f"store{n}"), host=NODES[n], port=PORT, routes=cluster)
        return lab.start(f"nats{n}", program, "-c", lab.write(f"nats{n}.conf", text))
    # It looks each new session up in a replicated stream, also a clean one. While a new leader of that stream is chosen, no node
    # answers CONNECT: a bare client waited 7.4 s (2.15.1) and 8 to 12 s (2.9.10), or was cut off after 5 s and 4 s. Sessions
    # that stand go on. So calls of new programs cannot be within 3 s; of 600 in two runs one failed.
    cluster = Cluster(lab, version(program, "--version"), 3, start, within=20.0)
    # They have to choose who leads before they serve MQTT.
    time.sleep(10)
    return cluster


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
    """Calls by address and by name in turn, a few at a time, while that node is killed."""
    def measure(lab, servers, cluster):
        if n >= cluster.count:
            return "-"
        cluster.revive()
        listener = owner(lab, servers)

        def call(number):
            if number == CALLS // 4:
                cluster.nodes[n].kill()
            key = lab.caller_key(number)
            if number % 2:
                return Call(lab, servers, f"{NAME}.peer", key=key)
            return Call(lab, servers, listener.address, "--strategies", "reverse", key=key)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(call, range(CALLS)))
        listener.process.end()
        slowest = max(call.took for call in done)
        bad = [call for call in done if not call.good]
        late = sum(call.took > cluster.within or not call.good for call in done)
        what = f"{CALLS - len(bad)}/{CALLS} {slowest:.1f} s"
        if late:
            raise Failed(f"{what}, {late} over {cluster.within} s or failed: {bad[0].why if bad else 'too slow'}")
        return what
    return measure


COLUMNS = {"names": everywhere} | {f"node {n + 1} dies": dying(n) for n in range(3)}
ROWS = {
    "mosquitto x2, bridged": mosquittos,
    "RabbitMQ x2": rabbitmqs(2),
    "NATS x3": nats,
}
