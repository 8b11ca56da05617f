"""TURN servers of others: each starts one, and says how a server list names it."""

import os
import shutil
import socket
import time

import brokers
from lab import Failed, Skip, fill, reaches, run, tool, version

PORT = 34780
LIST = f'[[turn]]\nhost = "127.0.0.1"\nport = {PORT}\n'
USER = 'user = "alice"\npassword = "s3cret"\n'


class Relay:
    """One that runs, and what the list says of it."""

    def __init__(self, version, servers):
        self.version, self.servers = version, servers


def coturn(lab, *args, host="127.0.0.1", name="coturn"):
    program = tool("turnserver", "coturn")
    fixed = ["-n", "--no-cli", "--log-file", "stdout", "--simple-log", "--allow-loopback-peers", "-L", host, "-E", host]
    lab.serve(name, program, *fixed, "-p", str(PORT), "-r", "example", *args, host=host, port=PORT, cwd=lab.folder)
    return version(program, "--version") if name == "coturn" else None


def is_bound(process, port):
    """Waits for a UDP socket, to which nobody can connect to see that it is there."""
    end = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        if process.popen.poll() is not None or time.monotonic() > end:
            raise Failed(f"{process.name} has no UDP port {port}: {process.said()}")
        time.sleep(0.05)


USERS = ["--lt-cred-mech", "-u", "alice:s3cret"]
PLAIN = ["--no-tls", "--no-dtls"]


def plain(lab):
    return Relay(coturn(lab, *USERS, *PLAIN), LIST + USER)


def over_tcp(lab):
    return Relay(coturn(lab, *USERS, *PLAIN, "--no-udp"), f'{LIST}transport = "tcp"\n{USER}')


def tls(lab):
    brokers.certificates(lab)
    files = ["--cert", lab.path("server.pem"), "--pkey", lab.path("server.key"), "--tls-listening-port", str(PORT + 1)]
    found = coturn(lab, *USERS, *files, "--no-udp")
    return Relay(found, f'[[turn]]\nurl = "turns:127.0.0.1:{PORT + 1}"\nca = "ca.pem"\n{USER}')


def secret(lab):
    return Relay(coturn(lab, "--use-auth-secret", "--static-auth-secret", "north", *PLAIN), f'{LIST}secret = "north"\n')


def pool(lab):
    """Two that share a secret and a name with both addresses, of which the first does not run."""
    found = coturn(lab, "--use-auth-secret", "--static-auth-secret", "north", *PLAIN, host="203.0.113.2")
    return Relay(found, LIST.replace("127.0.0.1", "pool.test") + 'secret = "north"\n')


def alternate(lab):
    """One that sends whoever comes to another. Loopback is no address to be sent to."""
    found = coturn(lab, *USERS, *PLAIN, "--alternate-server", f"203.0.113.2:{PORT}")
    coturn(lab, *USERS, *PLAIN, host="203.0.113.2", name="other")
    return Relay(found, LIST + USER)


def nobody(lab):
    return Relay(coturn(lab, "--no-auth", *PLAIN), f'{LIST}auth = "none"\n')


def turn_rs(lab):
    program = tool("turn-server", "turn-server of crates.io")
    config = lab.write("turn-rs.toml", fill("turn-rs.toml", port=PORT))
    is_bound(lab.start("turn-rs", program, "--config", config), PORT)
    return Relay(version(program, "--version"), LIST + USER)


def pion(lab):
    """The example of pion's package, which is built here without the network."""
    sources = "/usr/share/gocode/src/github.com/pion/turn/v2"
    if not os.path.isdir(sources) or not shutil.which("go"):
        raise Skip("no golang-go and golang-github-pion-turn.v2-dev")
    go = dict(os.environ, GO111MODULE="off", GOPATH="/usr/share/gocode", GOCACHE=os.environ["P2PD_OTHERS_CACHE"] + "/go")
    run("go", "build", "-o", lab.path("pion"), "github.com/pion/turn/v2/examples/turn-server/simple", env=go)
    process = lab.start("pion", lab.path("pion"), "-public-ip", "127.0.0.1", "-port", str(PORT), "-users", "alice=s3cret")
    is_bound(process, PORT)
    return Relay(version("dpkg-query", "-W", "-f", "${Version}", "golang-github-pion-turn.v2-dev"), LIST + USER)


def ejabberd(lab):
    broker = brokers.ejabberd(lab)
    return Relay(broker.version, broker.servers + LIST.replace(str(PORT), str(brokers.PORT + 5)) + USER)


def ours(lab):
    arguments = ["--mqtt-port", "0", "--stun-port", str(PORT), "--turn-user", "alice:s3cret"]
    process = lab.start("turn", lab.program, "serve", "--bind", "127.0.0.1", *arguments)
    reaches(process, "127.0.0.1", PORT)
    return Relay(version(lab.program, "--version"), LIST + USER)


ROWS = {
    "p2pd serve": ours,
    "coturn": plain,
    "coturn, TCP": over_tcp,
    "coturn, TLS": tls,
    "coturn, shared secret": secret,
    "coturn x2, one is down": pool,
    "coturn, alternate server": alternate,
    "coturn, no credentials": nobody,
    "turn-rs": turn_rs,
    "pion": pion,
    "ejabberd (TURN)": ejabberd,
}
