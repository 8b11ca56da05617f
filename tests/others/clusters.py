"""Clusters of brokers. Names have to lead wherever their owner is, and a node that dies must not keep anybody waiting."""

import concurrent.futures
import time

import brokers
from lab import Call, Failed, Listener, fill, tool, version

PORT = 1883
NODES = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
# Calls while a node dies, and the time that each may take.
CALLS, WITHIN = 100, 3.0
# Nodes that the operator calls by one name, which has all their addresses (/etc/hosts of this namespace).
TOGETHER = f'[[mqtt]]\nid = 3\nhost = "cluster.test"\nport = {PORT}\n'
NAME = "example"


def at(host):
    return f'[[mqtt]]\nid = 3\nhost = "{host}"\nport = {PORT}\n'


class Cluster:
    """Nodes that run. `start` starts the node of that number, also again."""

    def __init__(self, lab, version, count, start):
        self.version, self.count, self.start = version, count, start
        self.nodes = [start(n) for n in range(count)]
        self.servers = TOGETHER

    def kill(self, n):
        self.nodes[n].kill()

    def revive(self, n):
        self.nodes[n] = self.start(n)


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
    cluster = Cluster(lab, version(program, "--version"), 3, start)
    # They have to choose who leads before they serve MQTT.
    time.sleep(10)
    return cluster


def owner(lab, servers, broker=True):
    listener = Listener(lab, servers, "--name", NAME, within=60)
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
        listener = owner(lab, servers)

        def call(number):
            if number == CALLS // 4:
                cluster.kill(n)
            if number % 2:
                return Call(lab, servers, f"{NAME}.peer")
            return Call(lab, servers, listener.address, "--strategies", "reverse")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = list(pool.map(call, range(CALLS)))
        listener.process.end()
        cluster.revive(n)
        time.sleep(10)
        slowest = max(call.took for call in done)
        bad = [call for call in done if not call.good]
        if bad or slowest > WITHIN:
            why = bad[0].why if bad else "too slow"
            late = sum(call.took > WITHIN for call in done)
            raise Failed(f"{CALLS - len(bad)} of {CALLS}, {late} over {WITHIN} s, the slowest {slowest:.1f} s: {why}")
        return f"{CALLS}/{CALLS} {slowest:.1f} s"
    return measure


COLUMNS = {"names": everywhere} | {f"node {n + 1} dies": dying(n) for n in range(3)}
ROWS = {
    "mosquitto x2, bridged": mosquittos,
    "RabbitMQ x2": rabbitmqs(2),
    "NATS x3": nats,
}
