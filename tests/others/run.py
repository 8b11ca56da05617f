"""p2pd with the brokers and relays of others: `run.py PROGRAM SCRATCH [PART|ROW...]`. Prints a table for each part."""

import os
import subprocess
import sys
import time

import brokers
import clusters
import relays
import scale
from lab import Call, Failed, Lab, Listener, Skip, calls, run, say, tool, topic

NAME = "example"


def reverse(lab, servers, broker):
    listener = Listener(lab, servers)
    try:
        return calls(3, lambda: Call(lab, servers, listener.address, "--strategies", "reverse"))
    finally:
        listener.process.end()


def by_name(lab, servers):
    return calls(3, lambda: Call(lab, servers, f"{NAME}.peer"))


def owner(lab, servers):
    listener = Listener(lab, servers, "--name", NAME)
    listener.wait("registered")
    return listener


def name(lab, servers, broker):
    listener = owner(lab, servers)
    try:
        return by_name(lab, servers)
    finally:
        listener.kill()


def record(lab, servers, broker):
    """The name's owner was killed in `name`: what the broker kept is all there is."""
    names = lab.path("names.record")
    resolve = [lab.program, "name", "resolve", NAME, "--config", servers, "--bind", "127.0.0.1", "--names", names]
    try:
        return "found" if run(*resolve) else "nothing"
    except Failed:
        if not broker.keeps:
            return "not kept"
        raise


def answers(lab, servers, broker):
    """The owner is there, and what the broker kept is taken away."""
    publish = tool("mosquitto_pub", "mosquitto-clients")
    listener = owner(lab, servers)
    try:
        if broker.keeps:
            run(publish, *broker.publish, "-r", "-n", "-t", topic(NAME))
        return by_name(lab, servers)
    finally:
        listener.process.end()


def relay(lab, servers, _):
    listener = Listener(lab, servers)
    try:
        return calls(3, lambda: Call(lab, servers, listener.address, "--strategies", "relay", size=1 << 20))
    finally:
        listener.process.end()


COLUMNS = {"reverse": reverse, "name": name, "record alone": record, "owner alone": answers}


def row(program, scratch, name, start, columns, complaints):
    """The cells of a row: version, then a column each. What went wrong is told below the table."""
    lab = Lab(program, scratch, name)
    cells = []
    try:
        server = start(lab)
        servers = server.servers
        if columns is RELAYING and "[[mqtt]]" not in servers:
            brokers.ours(lab)
            servers = brokers.LIST + servers
        servers = lab.write("servers.toml", servers)
        cells.append(server.version)
        for column, measure in columns.items():
            try:
                cells.append(measure(lab, servers, server))
            except Skip as why:
                cells.append("-")
                complaints.append(f"SKIPPED {name}: {column}: {why}")
            except (Failed, subprocess.TimeoutExpired) as why:
                cells.append("FAILED")
                complaints.append(f"FAILED {name}: {column}: {why}")
    except Skip as why:
        return [f"SKIPPED: {why}"]
    except (Failed, subprocess.TimeoutExpired) as why:
        complaints.append(f"FAILED {name}: {why}")
        return ["FAILED: it did not start"]
    finally:
        lab.end()
    return cells


RELAYING = {"relay": relay}


def table(program, scratch, title, rows, columns):
    complaints = []
    width = max(map(len, rows), default=0)
    head = ["version", *columns]
    say(f"\n{title:{width}}  " + "  ".join(f"{cell:14}" for cell in head).rstrip())
    for label, start in rows.items():
        cells = row(program, scratch, label, start, columns, complaints)
        say(f"{label:{width}}  " + "  ".join(f"{cell:14}" for cell in cells).rstrip())
    return complaints


def main(program, scratch, wanted):
    began = time.monotonic()
    parts = {"brokers": brokers.ROWS, "relays": relays.ROWS, "clusters": clusters.ROWS}
    unknown = [word for word in wanted if word not in [*parts, "scale"] and not any(word in rows for rows in parts.values())]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(parts)}, scale, {', '.join(sum(map(list, parts.values()), []))}")
    complaints = []
    for part, columns in ("brokers", COLUMNS), ("relays", RELAYING), ("clusters", clusters.COLUMNS):
        rows = {label: start for label, start in parts[part].items() if not wanted or part in wanted or label in wanted}
        if rows:
            complaints += table(program, os.path.join(scratch, part), part, rows, columns)
    bad = scale.measure(program, os.path.join(scratch, "scale")) if not wanted or "scale" in wanted else 0
    say("")
    for complaint in complaints:
        say(complaint)
    bad += sum(complaint.startswith("FAILED") for complaint in complaints)
    say(f"others: {bad} failed, {time.monotonic() - began:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
