"""The attacks by name. Each module registers its own by `@attack`."""

import collections

Scenario = collections.namedtuple("Scenario", "what within run")
SCENARIOS = {}


def attack(name, what, within=120):
    def register(run):
        SCENARIOS[name] = Scenario(what, within, run)
        return run

    return register


from . import asking, doors, local, peer, serving, third  # noqa: E402,F401
