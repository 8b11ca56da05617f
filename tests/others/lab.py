"""Processes, calls and listeners of the tests with software of others. Everything here is one machine: a namespace of its own."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


class Skip(Exception):
    """What a row needs cannot be had here."""


class Failed(Exception):
    """Something was tried and went wrong."""


def tool(name, package=None):
    """The path of a program, which a package brings."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise Skip(f"no {package or name}")
    return found


def run(*args, **options):
    """What a command prints. It has to end well."""
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **options)
    if done.returncode != 0:
        raise Failed(f"{os.path.basename(args[0])}: {done.stdout.strip()[-300:]}")
    return done.stdout


def version(*args, pattern=r"\d+\.\d+[\w.]*"):
    """The first version in what a command prints, however it ends."""
    said = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60).stdout
    found = re.search(pattern, said)
    return found.group() if found else "?"


class Process:
    """A process and all that it starts, with what it says in a file."""

    def __init__(self, lab, name, args, **options):
        self.name, self.log = name, lab.path(f"{name}.log")
        with open(self.log, "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
            self.popen = subprocess.Popen(args, start_new_session=True, **options)

    def end(self, how=signal.SIGTERM):
        """Ends it and waits; what does not end is killed."""
        for kind in (how, signal.SIGKILL):
            try:
                os.killpg(self.popen.pid, kind)
            except ProcessLookupError:
                pass
            try:
                self.popen.wait(5)
                break
            except subprocess.TimeoutExpired:
                pass

    def kill(self):
        self.end(signal.SIGKILL)

    def said(self):
        with open(self.log, errors="replace") as log:
            return log.read().strip()[-300:]


class Lab:
    """One row's folder and processes."""

    def __init__(self, program, scratch, name):
        self.program = program
        self.folder = os.path.join(scratch, re.sub(r"\W+", "-", name))
        os.makedirs(self.folder)
        # Servers that give up being root have to reach their files.
        os.chmod(self.folder, 0o777)
        self.processes = []
        self.identity = self.path("caller.key")
        self.caller = run(program, "id", "--identity", self.identity).strip()

    def caller_key(self, number):
        """One of twenty: a caller may not call often."""
        return self.path(f"caller{number % 20}.key")

    def callers(self):
        return [run(self.program, "id", "--identity", self.caller_key(number)).strip() for number in range(20)]

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        path = self.path(name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def start(self, name, *args, **options):
        process = Process(self, name, args, **options)
        self.processes.append(process)
        return process

    def serve(self, name, *args, port, host="127.0.0.1", within=20, **options):
        """A server, from when it listens."""
        process = self.start(name, *args, **options)
        reaches(process, host, port, within)
        return process

    def end(self):
        for process in reversed(self.processes):
            process.end()


def reaches(process, host, port, within=20):
    end = time.monotonic() + within
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError as why:
            if process.popen.poll() is not None or time.monotonic() > end:
                raise Failed(f"{process.name} does not listen on {host}:{port}: {why}; {process.said()}")
            time.sleep(0.05)


class Listener:
    """`p2pd listen --echo`, from when its broker is there, for calls of the lab's caller."""

    def __init__(self, lab, servers, *args, key="listener.key", broker=True, within=20):
        command = [lab.program, "listen", "--echo", "--json", "--bind", "127.0.0.1", "--config", servers]
        command += ["--identity", lab.path(key), "--accept", lab.caller, *args]
        self.process = lab.start("listener", *command, stderr=subprocess.PIPE)
        self.events, self.changed, self.ended = [], threading.Condition(), False
        threading.Thread(target=self.read, daemon=True).start()
        # Without a broker an address begins with `None`.
        ready = self.wait("ready", lambda e: not broker or e["address"][0].isdigit(), within)
        self.address = ready["address"]

    def read(self):
        for line in self.process.popen.stderr:
            with self.changed:
                self.events.append(json.loads(line))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, name, fits=lambda event: True, within=20):
        """The newest event of that name that fits."""
        def found():
            return next((e for e in reversed(self.events) if e["event"] == name and fits(e)), None)
        with self.changed:
            if not self.changed.wait_for(lambda: found() or self.ended, within) or not found():
                told = [json.dumps(event) for event in self.events[-3:]]
                raise Failed(f"the listener said no {name}, but {'; '.join(told)}")
            return found()

    def kill(self):
        self.process.kill()


class Call:
    """`p2pd connect`, ended: whether what was sent came back, after how many seconds, how, or why not."""

    def __init__(self, lab, servers, target, *args, size=100, timeout=20, key=None):
        # A pin of an earlier call would spare this one the broker's word.
        names = lab.path(f"names.{time.monotonic_ns()}")
        command = [lab.program, "connect", target, "--json", "--bind", "127.0.0.1", "--config", servers]
        command += ["--identity", key or lab.identity, "--names", names, "--timeout", str(timeout), *args]
        sent, self.began = os.urandom(size), time.monotonic()
        try:
            done = subprocess.run(command, input=sent, capture_output=True, timeout=timeout + 20)
            self.good, said = done.stdout == sent and done.returncode == 0, done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as why:
            self.good, said = False, f"no end within {why.timeout} s"
        self.took = time.monotonic() - self.began
        self.how = "".join(re.findall(r'"event":"connected".*?"strategy":"(\w+)"', said)[:1])
        self.why = "" if self.good else (said.strip().splitlines() or ["nothing said"])[-1][-300:]


class Daemon:
    """`p2pd daemon`, a node that stands, once its address names two brokers."""

    def __init__(self, lab, servers, number):
        with socket.create_server(("127.0.0.1", 0)) as free:
            api = "127.0.0.1:%d" % free.getsockname()[1]
        self.url = f"http://{api}/p2p/"
        command = [lab.program, "daemon", "--api", api, "--no-token", "--bind", "127.0.0.1", "--config", servers]
        command += ["--identity", lab.caller_key(number), "--names", lab.path(f"daemon{number}.names")]
        self.process, end = lab.start(f"daemon{number}", *command), time.monotonic() + 60
        while "," not in self.ask("addr", "addr").split("-")[0]:
            if self.process.popen.poll() is not None or time.monotonic() > end:
                raise Failed(f"the daemon names no two brokers: {self.process.said()}")
            time.sleep(0.1)

    def ask(self, call, field):
        """A field of the answer to a call of the API, or nothing while nobody answers."""
        try:
            with urllib.request.urlopen(self.url + call, timeout=40) as answer:
                return str(json.load(answer)[field])
        except urllib.error.HTTPError as why:
            raise Failed(why.read().decode(errors="replace").strip()[-300:]) from None
        except urllib.error.URLError:
            return ""

    def call(self, target, number, strategies=""):
        return DaemonCall(self, target, f"call{number}", strategies)


class DaemonCall:
    """A pipe that a daemon opens, as `Call` is one of a program's."""

    def __init__(self, daemon, target, name, strategies):
        self.began, self.why = time.monotonic(), ""
        try:
            wanted = f"&strategies={strategies}" if strategies else ""
            daemon.ask(f"open/{name}/{urllib.parse.quote(target)}?timeout=30{wanted}", "error")
            daemon.ask(f"send/{name}/{name}", "error")
            said = daemon.ask(f"recv/{name}/timeout/10", "data")
            self.why = "" if said == name else f"{said!r} came back for {name}"
            self.took = time.monotonic() - self.began
            daemon.ask(f"close/{name}", "error")
        except Failed as why:
            self.took, self.why = time.monotonic() - self.began, str(why)
        self.good = not self.why


def packet(head, body):
    """An MQTT packet."""
    length, size = len(body), b""
    while True:
        size += bytes([length & 127 | (128 if length > 127 else 0)])
        length >>= 7
        if not length:
            return bytes([head]) + size + body


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


def calls(count, make):
    """Results of so many calls as a cell of the table. All have to be good."""
    done = [make() for _ in range(count)]
    bad = [call for call in done if not call.good]
    if bad:
        raise Failed(f"{count - len(bad)} of {count}: {bad[0].why}")
    return f"{count}/{count} {sorted(call.took for call in done)[count // 2]:.2f} s"


def topic(name):
    """Where a name's record is kept: `Name::topic` of the core."""
    digest = hashlib.blake2s(b"p2pd name" + name.encode()).digest()
    return "p2pd-name-" + base64.b32encode(digest).decode().rstrip("=").lower()


def fill(path, **values):
    """A file of this folder with its `@NAME@` filled in."""
    with open(os.path.join(HERE, path)) as file:
        text = file.read()
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    return text


def say(text):
    print(text, flush=True)
    sys.stdout.flush()
