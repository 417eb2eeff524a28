"""What is broken when, by a seed: the same seed breaks the same again."""

from random import Random
from typing import Any

import msgspec

KINDS = {
    # kind: how often of 100, and for how long (seconds, least and most)
    "kill": (24, 0.2, 3.0),  # SIGKILL of a process and its children; started again after that
    "stall": (14, 0.5, 12.0),  # SIGSTOP, then SIGCONT
    "stop": (8, 0.2, 2.0),  # SIGTERM, as a deployment does
    "nats_leader": (9, 0.5, 5.0),  # the nats-server that leads a stream
    "nats_all": (5, 0.5, 6.0),
    "nats_cut": (7, 0.3, 5.0),  # every connection to NATS
    "postgres_restart": (6, 0.2, 3.0),  # an immediate shutdown: the next start recovers
    "postgres_terminate": (7, 0.0, 0.0),  # every session of it
    "postgres_cut": (7, 0.3, 6.0),
    "postgres_slow": (7, 2.0, 8.0),  # answers come later by 5 to 50 ms
    "disk_slow": (3, 2.0, 6.0),  # each commit takes 20 to 100 ms more
    "clock": (8, 2.0, 8.0),  # of one process, back or forth
}
OF_A_PROCESS = ("kill", "stall", "stop", "clock")
PAUSE_S = (0.3, 2.5)


class Breakage(msgspec.Struct, frozen=True):
    """One thing that is broken `at_s` after the start, for so long. `by` is how much, where that has a meaning."""

    at_s: float
    kind: str
    target: str = ""
    for_s: float = 0.0
    by: float = 0.0


def plan_of(seed: int, length_s: float, processes: list[str]) -> list[Breakage]:
    """What is broken in that time, oldest first; several things may be broken at a time."""
    chance = Random(seed)
    found: list[Breakage] = []
    at_s = chance.uniform(*PAUSE_S)
    while at_s < length_s:
        [kind] = chance.choices(list(KINDS), [share for share, _, _ in KINDS.values()])
        _, least_s, most_s = KINDS[kind]
        target = chance.choice(processes) if kind in OF_A_PROCESS else ""
        by = {
            "postgres_slow": chance.uniform(0.005, 0.05),
            "disk_slow": chance.uniform(0.02, 0.1),
            "clock": chance.choice((-3600.0, -30.0, -4.0, 3.0, 20.0, 3600.0)),
        }.get(kind, 0.0)
        found.append(Breakage(round(at_s, 2), kind, target, round(chance.uniform(least_s, most_s), 2), by))
        at_s += chance.uniform(*PAUSE_S)
    return found


def told(plan: list[Breakage]) -> str:
    """The plan for whoever reads a failure."""
    return "\n".join(f"  {b.at_s:6.2f} s {b.kind} {b.target} for {b.for_s} s {b.by or ''}" for b in plan)


def counted(plans: list[list[Breakage]]) -> dict[str, Any]:
    """How often each kind of thing was broken."""
    return {kind: sum(b.kind == kind for plan in plans for b in plan) for kind in KINDS}
