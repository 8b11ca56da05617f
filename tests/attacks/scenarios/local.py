"""Attacks on this machine: other users and web pages at the daemon's API, lists of others, text that reaches a terminal."""

import base64
import os
import socket
import stat
import struct
import subprocess
import threading
import time

import lab
import turn
import wire
from lab import must
from scenarios import attack

API = 12398


def daemon(*arguments, **options):
    return lab.Program("daemon", "--no-servers", "--bind", "127.0.0.1", "--api", f"127.0.0.1:{API}", *arguments, victim=False, **options)


def status(*arguments):
    return lab.curl(*arguments, victim=False)[0]


def hold(count, data=b""):
    held = []
    for _ in range(count):
        try:
            stream = socket.create_connection(("127.0.0.1", API), 1)
            if data:
                stream.sendall(data)
            held.append(stream)
        except OSError:
            break
    return held


@attack("e1", "another user of the machine holds 1,100 connections to the API without a token", within=180)
def e1():
    token, unix = (os.path.join(lab.SCRATCH, name) for name in ("token", "api"))
    daemon("--token-file", token, "--unix", unix, descriptors=8192)
    shown = ["-H", "X-P2PD-Token: " + open(token).read().strip()]
    must("the token's file", stat.S_IMODE(os.stat(token).st_mode) == 0o600, oct(os.stat(token).st_mode & 0o777), "0o600")
    must("the Unix socket", stat.S_IMODE(os.stat(unix).st_mode) == 0o600, oct(os.stat(unix).st_mode & 0o777), "0o600")
    request = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for name, data in (("silent", b""), ("half a head", request[:20]), ("kept alive", request)):
        held = hold(1100, data)
        time.sleep(1)
        seen = [status(*shown, f"http://127.0.0.1:{API}/p2p/con"), status("--unix-socket", unix, "http://localhost/p2p/con")]
        must(f"{len(held)} {name}: the API with the token, and its Unix socket", seen == [200, 200], seen, [200, 200])
        for stream in held:
            stream.close()
        time.sleep(1)


def upgrade(*headers, path="/p2p/pipe/x"):
    """The status of a WebSocket's opening with these headers."""
    with socket.create_connection(("127.0.0.1", API), 3) as stream:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{API}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        stream.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
        try:
            return int(stream.recv(200).split(b" ", 2)[1])
        except (OSError, IndexError):
            return 0


@attack("frame", "a sandboxed frame of any web page at a daemon with --no-token")
def frame():
    daemon("--no-token")
    opened = status(f"http://127.0.0.1:{API}/p2p/open/x/self")
    must("the user's own call", opened == 200, opened, 200)
    for name, headers, good in (
        ("of a sandboxed frame", ["Origin: null"], False),
        ("of a page elsewhere", ["Origin: http://evil.example"], False),
        ("of a page elsewhere that says so", ["Origin: null", "Sec-Fetch-Site: cross-site"], False),
        ("of a program", [], True),
        ("of a page of this machine", ["Origin: http://127.0.0.1:8000"], True),
    ):
        seen = upgrade(*headers)
        must(f"a WebSocket {name}", (seen == 101) == good, seen, 101 if good else "refused")
        time.sleep(0.2)
    seen = status("-H", "Origin: null", f"http://127.0.0.1:{API}/p2p/send/x/hi")
    must("a request with Origin null", seen in (401, 403), seen, "401 or 403")


@attack("token", "the token in what a daemon prints")
def token():
    path = os.path.join(lab.SCRATCH, "token")
    program = daemon("--token-file", path)
    text = open(path).read().strip()
    time.sleep(0.5)
    said = "".join(program.lines)
    must("the token in JSON events and logs", text not in said, "printed" if text in said else "not there", "not there")
    program.end()
    os.chmod(path, 0o640)
    done = attempt("daemon", "--no-servers", "--bind", "127.0.0.1", "--api", f"127.0.0.1:{API}", "--token-file", path, seconds=3)
    must("a token that others may read", done not in (None, 0), done, "refused")


def attempt(*arguments, seconds=5, text=False):
    """How a command ends: its code, none if it does not; and what it said."""
    try:
        done = subprocess.run([lab.PROGRAM, *arguments], capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, env=lab.environment(lab.SCRATCH), cwd=lab.SCRATCH)
        code, said = done.returncode, (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired as why:
        code, said = None, ((why.stdout or b"") + (why.stderr or b"")).decode(errors="replace")
    return (code, said) if text else code


def write(name, text):
    path = os.path.join(lab.SCRATCH, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def controls(said):
    return sorted({hex(ord(c)) for c in said if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"})


@attack("list", "a server list of somebody else: programs, files outside its folder, FIFOs, control characters")
def server_list():
    ran = os.path.join(lab.SCRATCH, "ran")
    command = f'["sh", "-c", "id > {ran}; echo u; echo p"]'
    path = write("list.toml", f'[[turn]]\nhost = "127.0.0.1"\ncredential_command = {command}\n')
    address = "None-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-" + wire.Key().id
    for verb in (["addr"], ["nat"], ["connect", address, "--timeout", "1"], ["name", "resolve", "example"], ["listen"], ["daemon", "--api", "127.0.0.1:0"]):
        code, said = attempt(*verb, "--config", path, "--bind", "127.0.0.1", text=True)
        did = os.path.exists(ran)
        must(f"`{verb[0]}` with a list that names a program", not did and code not in (0, None), f"{'ran it' if did else 'did not run it'}, ended with {code}", "not run, and an error")
        if did:
            os.remove(ran)
    must("the error shows the command", "echo u" in said, said.strip()[-200:], "the command")
    fifo = os.path.join(lab.SCRATCH, "fifo")
    os.mkfifo(fifo)
    code = attempt("addr", "--config", fifo)
    must("a FIFO as --config", code not in (None, 0), "hangs" if code is None else code, "an error")
    path = write("ca.toml", f'[[mqtt]]\nid = 0\nhost = "127.0.0.1"\ntls = true\nca = "fifo"\n')
    code = attempt("addr", "--config", path, "--bind", "127.0.0.1")
    must("a FIFO as `ca`", code not in (None, 0), "hangs" if code is None else code, "an error")
    os.makedirs(os.path.join(lab.SCRATCH, "folder"), exist_ok=True)
    outside = write("secret.txt", "not for lists\n")
    os.symlink(outside, os.path.join(lab.SCRATCH, "folder", "link.pem"))
    for name, ca in (("..", "../secret.txt"), ("an absolute path", outside), ("a link", "link.pem")):
        path = write("folder/ca.toml", f'[[mqtt]]\nid = 0\nhost = "127.0.0.1"\ntls = true\nca = "{ca}"\n')
        code, said = attempt("addr", "--config", path, "--bind", "127.0.0.1", text=True)
        good = code not in (None, 0) and "not for lists" not in said and "folder" in said
        must(f"`ca` outside the list's folder by {name}", good, f"{code}: {said.strip()[-120:]}", "refused, in words that name the folder")
    for name, text in (
        ("an entry", '[[mqtt]]\nid = 0\nhost = "a\\u001b]0;pwned\\u0007\\u202e"\nwebsocket = "x"\n'),
        ("an unknown field", '[[mqtt]]\nid = 0\nhost = "a"\n"\\u001b[2J" = 1\n'),
        ("a url", '[[turn]]\nurl = "turn:a\\u001b[2Jb:x"\nuser = "u"\npassword = "p"\n'),
        ("a command", '[[turn]]\nhost = "a"\ncredential_command = ["\\u001b[2J"]\n'),
    ):
        _, said = attempt("addr", "--config", write("escapes.toml", text), "--bind", "127.0.0.1", text=True)
        bad = controls(said)
        must(f"control characters of {name} of a list on the terminal", not bad, bad or "none", "none")


class EvilServer:
    """A STUN and TURN server whose errors hold control characters."""

    REASON = b"\x1b]0;pwned\x07\x1b[2J\xe2\x80\xae"

    def __init__(self, port):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            data, who = self.socket.recvfrom(3000)
            if len(data) < 20 or data[0] & 0xC0:
                continue
            (method,) = struct.unpack(">H", data[:2])
            body = turn.attribute(turn.ERROR, b"\0\0\x05\x01" + self.REASON)
            self.socket.sendto(struct.pack(">HHI", method | 0x110, len(body), turn.COOKIE) + data[8:20] + body, who)


@attack("escapes", "errors of servers with control characters")
def escapes():
    EvilServer(3478)
    broker = socket.socket()
    broker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    broker.bind(("127.0.0.1", 1883))
    broker.listen()

    def babble():
        while True:
            stream, _ = broker.accept()
            stream.sendall(b"HTTP/1.1 400 \x1b[2J\x1b]0;x\x07\r\n\r\n")
            stream.close()

    threading.Thread(target=babble, daemon=True).start()
    path = write("evil.toml", '[[mqtt]]\nid = 0\nhost = "127.0.0.1"\n[[stun]]\nhost = "127.0.0.1"\n[[turn]]\nhost = "127.0.0.1"\nuser = "u"\npassword = "p"\n')
    address = "0-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-" + wire.Key().id
    for more in ([], ["--log", "debug"], ["--json"]):
        code, said = attempt("connect", address, "--timeout", "4", "--config", path, "--bind", "127.0.0.1", *more, seconds=15, text=True)
        bad = controls(said)
        must(f"control characters of servers, connect {' '.join(more)}", not bad and code == 1, f"{bad or 'none'}, ended with {code}", "none, ended with 1")
    for text in ("\x1b[2J", "0-[0,1.2.3.4\x1b]0;x\x07,1.2.3.4,1,1,1,0]-0-x", "a\x1bb.peer"):
        _, said = attempt("connect", text, "--no-servers", "--bind", "127.0.0.1", text=True)
        bad = controls(said)
        must("control characters of an address that was pasted", not bad, bad or "none", "none")
