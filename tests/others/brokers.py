"""Brokers of others: each starts one, and says how a server list names it."""

import os
import shutil

from lab import Failed, Skip, fill, reaches, run, tool, version

PORT = 18830
LIST = f'[[mqtt]]\nid = 3\nhost = "127.0.0.1"\nport = {PORT}\n'


class Broker:
    """One that runs. `publish` are arguments of mosquitto_pub that reach it, and `keeps` is what its records do."""

    def __init__(self, version, servers=LIST, publish=(), keeps=True, cells=None):
        self.version, self.servers, self.keeps = version, servers, keeps
        self.publish = ["-h", "127.0.0.1", "-p", str(PORT), *publish]


def mosquitto(lab, lines="allow_anonymous true", listener=f"listener {PORT} 127.0.0.1"):
    program = tool("mosquitto")
    lab.write("mosquitto.conf", f"per_listener_settings true\nuser root\n{listener}\n{lines}\n")
    lab.serve("mosquitto", program, "-c", "mosquitto.conf", cwd=lab.folder, port=PORT)
    return version(program, "-h")


def plain(lab):
    return Broker(mosquitto(lab))


def no_retained(lab):
    return Broker(mosquitto(lab, "allow_anonymous true\nretain_available false"), keeps=False)


def capped(lab):
    """Whatever a client asks for: one message at a time, its queue short, its packets small."""
    lines = "allow_anonymous true\nmax_inflight_messages 1\nmax_queued_messages 20\nmax_packet_size 8192\nmax_qos 0"
    return Broker(mosquitto(lab, lines))


def password(lab, acl=""):
    tool("mosquitto_passwd", "mosquitto")
    run("mosquitto_passwd", "-c", "-b", lab.path("passwords"), "alice", "s3cret")
    found = mosquitto(lab, f"allow_anonymous false\npassword_file passwords\n{acl}")
    return Broker(found, f'{LIST}user = "alice"\npassword = "s3cret"\n', ["-u", "alice", "-P", "s3cret"])


def access_list(lab):
    lab.write("acl", "user alice\ntopic readwrite +\n")
    return password(lab, "acl_file acl")


def certificates(lab):
    """An authority, and a certificate of it for the server and for us."""
    openssl, key = tool("openssl"), "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30".split()
    lab.write("san", "subjectAltName=IP:127.0.0.1\n")
    run(openssl, "req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", cwd=lab.folder)
    for who in ("server", "alice"):
        run(openssl, "req", *key, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr", cwd=lab.folder)
        sign = f"x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out {who}.pem"
        run(openssl, *sign.split(), cwd=lab.folder)
        os.chmod(lab.path(f"{who}.key"), 0o644)


def client_certificate(lab):
    certificates(lab)
    lines = "cafile ca.pem\ncertfile server.pem\nkeyfile server.key\nrequire_certificate true\nuse_identity_as_username true"
    ours = 'ca = "ca.pem"\nclient_certificate = "alice.pem"\nclient_key = "alice.key"\n'
    files = [arg for name in ("cafile ca.pem", "cert alice.pem", "key alice.key")
             for arg in (f"--{name.split()[0]}", lab.path(name.split()[1]))]
    return Broker(mosquitto(lab, lines), f"{LIST}tls = true\n{ours}", files)


def web_socket(lab):
    try:
        found = mosquitto(lab, f"allow_anonymous true\nlistener {PORT + 1} 127.0.0.1\nprotocol websockets\nallow_anonymous true")
        reaches(lab.processes[-1], "127.0.0.1", PORT + 1)
    except Failed:
        with open(lab.path("mosquitto.log")) as log:
            if "websockets" in log.read().lower():
                raise Skip("mosquitto was built without WebSockets") from None
        raise
    return Broker(found, LIST.replace(str(PORT), str(PORT + 1)) + 'websocket = "/mqtt"\n')


def rabbitmq(lab, name="rabbit", host="127.0.0.1", port=PORT, dist=25680, cluster=(), within=90):
    """A node of RabbitMQ with its MQTT plugins, in folders of the lab's. `epmd` is the lab's too, lest it outlive us."""
    home = "/usr/lib/rabbitmq/bin"
    tool("rabbitmq-server")
    if not os.path.exists(f"{home}/rabbitmq-server"):
        raise Skip(f"no {home}/rabbitmq-server")
    if not any(process.name == "epmd" for process in lab.processes):
        lab.serve("epmd", tool("epmd", "erlang-base"), port=4369)
    peers = "".join(f"cluster_formation.classic_config.nodes.{n} = {peer}@localhost\n" for n, peer in enumerate(cluster, 1))
    config = fill("rabbitmq.conf", host=host, port=port, web=port + 1)
    lab.write(f"{name}.conf", config + (f"cluster_formation.peer_discovery_backend = classic_config\n{peers}" if cluster else ""))
    lab.write(f"{name}.plugins", "[rabbitmq_mqtt,rabbitmq_web_mqtt].\n")
    environment = {
        "HOME": lab.folder, "RABBITMQ_NODENAME": f"{name}@localhost", "RABBITMQ_CONFIG_FILE": lab.path(f"{name}.conf"),
        "RABBITMQ_MNESIA_BASE": lab.path(name), "RABBITMQ_LOG_BASE": lab.path(name), "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_ENABLED_PLUGINS_FILE": lab.path(f"{name}.plugins"), "RABBITMQ_PID_FILE": lab.path(f"{name}.pid"),
        "RABBITMQ_NODE_IP_ADDRESS": host, "RABBITMQ_NODE_PORT": str(dist - 1000),
    }
    environment = dict(os.environ, **environment)
    node = lab.start(name, f"{home}/rabbitmq-server", env=environment)
    for at in (port, port + 1):
        reaches(node, host, at, within)
    node.environment = environment
    return node


def rabbitmq_version():
    return version("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server")


def rabbitmq_plain(lab):
    rabbitmq(lab)
    return Broker(rabbitmq_version())


def rabbitmq_web_socket(lab):
    rabbitmq(lab)
    return Broker(rabbitmq_version(), LIST.replace(str(PORT), str(PORT + 1)) + 'websocket = "/ws"\n')


def nats(lab):
    program = tool("nats-server")
    lab.write("nats.conf", fill("nats.conf", name="n1", folder=lab.path("store"), host="127.0.0.1", port=PORT, routes=""))
    lab.serve("nats", program, "-c", lab.path("nats.conf"), port=PORT)
    return Broker(version(program, "--version"))


def aedes(lab):
    """A broker for Node.js, over TCP and over WebSocket."""
    node, modules = tool("node", "nodejs"), os.path.join(os.environ["P2PD_OTHERS_CACHE"], "npm/node_modules")
    if not os.path.isdir(f"{modules}/aedes"):
        raise Skip("npm does not give aedes")
    lab.serve("aedes", node, lab.write("aedes.mjs", fill("aedes.mjs", modules=modules, port=PORT)), port=PORT + 1)
    return version("grep", '"version"', f"{modules}/aedes/package.json")


def aedes_plain(lab):
    return Broker(aedes(lab))


def aedes_web_socket(lab):
    return Broker(aedes(lab), LIST.replace(str(PORT), str(PORT + 1)) + 'websocket = "/mqtt"\n')


def rumqttd(lab):
    program = tool("rumqttd", "rumqttd of crates.io")
    lab.serve("rumqttd", program, "-c", lab.write("rumqttd.toml", fill("rumqttd.toml", port=PORT)), port=PORT)
    return Broker(version(program, "--version"))


def ejabberd(lab):
    """Its broker and its relay, for a user that it knows. It asks for a domain behind the user's name."""
    control = tool("ejabberdctl", "ejabberd")
    if not any(process.name == "epmd" for process in lab.processes):
        lab.serve("epmd", tool("epmd", "erlang-base"), port=4369)
    # It gives up being root, by way of a session of its own that nobody would end: it never is root here.
    home = lab.path("home")
    os.mkdir(home)
    with open(f"{home}/ejabberd.yml", "w") as config:
        config.write(fill("ejabberd.yml", port=PORT, turn=PORT + 5))
    shutil.chown(home, "ejabberd")
    whose = {"env": dict(os.environ, HOME=home), "user": "ejabberd", "group": "ejabberd", "extra_groups": [], "cwd": home}
    folders = ["--config-dir", home, "--config", f"{home}/ejabberd.yml", "--logs", home, "--spool", f"{home}/db"]
    command = [control, *folders, "--node", "ejabberd@localhost"]
    lab.serve("ejabberd", *command, "foreground", port=PORT, within=60, **whose)
    run(*command, "register", "alice", "localhost", "s3cret", **whose)
    found = version("dpkg-query", "-W", "-f", "${Version}", "ejabberd")
    user = 'user = "alice@localhost"\npassword = "s3cret"\n'
    return Broker(found, LIST + user, ["-u", "alice@localhost", "-P", "s3cret"])


def ours(lab):
    lab.serve("serve", lab.program, "serve", "--no-turn", "--bind", "127.0.0.1", "--mqtt-port", str(PORT), "--stun-port", "0", port=PORT)
    return Broker(version(lab.program, "--version"))


ROWS = {
    "p2pd serve": ours,
    "mosquitto": plain,
    "mosquitto, password": password,
    "mosquitto, access list": access_list,
    "mosquitto, client certificate": client_certificate,
    "mosquitto, WebSocket": web_socket,
    "mosquitto, QoS 0, 8 KiB, one at a time": capped,
    "mosquitto, nothing retained": no_retained,
    "RabbitMQ": rabbitmq_plain,
    "RabbitMQ, WebSocket": rabbitmq_web_socket,
    "NATS": nats,
    "aedes": aedes_plain,
    "aedes, WebSocket": aedes_web_socket,
    "rumqttd": rumqttd,
    "ejabberd": ejabberd,
}
