"""Runs the attacks: `run.py PROGRAM SCRATCH [NAME...]`. Each has two machines and a process of its own, and a bound on its time."""

import os
import subprocess
import sys
import time

import lab
from scenarios import SCENARIOS

HERE = os.path.abspath(__file__)


def one(name):
    lab.begin()
    SCENARIOS[name].run()
    lab.finish()


def everything(program, scratch, names):
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        sys.exit(f"unknown: {' '.join(unknown)}; there are {' '.join(SCENARIOS)}")
    results = []
    for name in names or SCENARIOS:
        scenario = SCENARIOS[name]
        victim, others = (f"p2pd-attack-{os.getpid()}-{machine}" for machine in ("victim", "others"))
        folder = os.path.join(scratch, name)
        os.makedirs(folder)
        print(f"{name}: {scenario.what}", flush=True)
        began = time.monotonic()
        lab.build(victim, others)
        try:
            environment = dict(os.environ, P2PD_ATTACKED=program, P2PD_ATTACK_SCRATCH=folder, P2PD_ATTACK_VICTIM=victim)
            child = ["ip", "netns", "exec", others, sys.executable, HERE, "--one", name]
            good = subprocess.run(child, env=environment, timeout=scenario.within).returncode == 0
        except subprocess.TimeoutExpired:
            print(f"  FAILED  not done within {scenario.within} s", flush=True)
            good = False
        finally:
            lab.remove(victim, others)
        results.append((name, good, time.monotonic() - began))
    print()
    for name, good, took in results:
        print(f"{'PASSED' if good else 'FAILED'}  {took:6.1f} s  {name}")
    sys.exit(0 if all(good for _, good, _ in results) else 1)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2])
    else:
        everything(sys.argv[1], sys.argv[2], sys.argv[3:])
