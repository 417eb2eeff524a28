"""Two checkouts beside each other: `python tests/bench/compare.py BEFORE AFTER [ROUNDS]`.

Servers of both are started in turns, so that what the machine does meanwhile meets both alike; one client asks
one thing after the other. Medians over the rounds: wall time, and CPU of all the server's processes. Both run in
this interpreter's environment.
"""

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
GRAPH = """
    import operator
    from typing import Annotated, TypedDict

    from langgraph.graph import START, StateGraph


    class State(TypedDict, total=False):
        count: Annotated[int, operator.add]


    counter = StateGraph(State).add_node("add", lambda _: {"count": 1}).add_edge(START, "add").compile()
"""
CRON = {"assistant_id": "counter", "schedule": "0 0 1 1 *", "enabled": False, "input": {"count": 1}}
RUN = {"assistant_id": "counter", "input": {"count": 1}}
Figures = dict[str, tuple[float, float]]


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all below it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / TICK + sum(map(cpu_s, map(int, children)))


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(method, path, None if body is None else json.dumps(body))
        answer = self._connection.getresponse()
        data = answer.read()
        assert answer.status < 300, (path, answer.status, data[:200])
        return json.loads(data) if answer.headers["content-type"] == "application/json" else data


def figures_of(checkout: Path, folder: Path) -> Figures:
    """Milliseconds of each operation (wall, CPU) on a fresh server of that checkout."""
    (folder / "graph.py").write_text(dedent(GRAPH))
    (folder / "langgraph.json").write_text(json.dumps({"graphs": {"counter": "./graph.py:counter"}}))
    arguments = [
        "up",
        "--config",
        str(folder / "langgraph.json"),
        "--data",
        str(folder / "data"),
        "--port",
        "0",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "services", *arguments],
            cwd=checkout,
            env=os.environ | {"CRONLEDGER_CRONS_PER_USER": "0"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert server.stdout is not None
    with server.stdout as said:
        ready = next(line for line in said if " is ready on " in line)
        try:
            return measured(Client(int(ready.rsplit(":", 1)[1])), server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def measured(ask: Client, pid: int) -> Figures:
    """The same of a server that runs."""
    thread = ask("POST", "/threads", {})["thread_id"]
    ask("POST", f"/threads/{thread}/runs/wait", RUN)
    run = ask("GET", f"/threads/{thread}/runs")[0]["run_id"]

    def background() -> None:
        own = ask("POST", "/threads", {})["thread_id"]
        begun = ask("POST", f"/threads/{own}/runs", RUN)["run_id"]
        ask("GET", f"/threads/{own}/runs/{begun}/join")

    work: dict[str, tuple[int, Callable[[], Any]]] = {
        "create cron": (400, lambda: ask("POST", f"/threads/{thread}/runs/crons", CRON)),
        "GET run": (2000, lambda: ask("GET", f"/threads/{thread}/runs/{run}")),
        "search crons": (400, lambda: ask("POST", "/runs/crons/search", {"limit": 10})),
        "search threads": (400, lambda: ask("POST", "/threads/search", {"limit": 10})),
        "GET state": (400, lambda: ask("GET", f"/threads/{thread}/state")),
        "background run": (100, background),
        "stream": (100, lambda: ask("POST", "/runs/stream", RUN | {"stream_mode": ["values", "updates"]})),
    }
    return {name: timed(pid, times, do) for name, (times, do) in work.items()}


def timed(pid: int, times: int, do: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds: the median of the wall time, the mean of the CPU."""
    for _ in range(times // 10):
        do()
    took, before = list[float](), cpu_s(pid)
    for _ in range(times):
        began = time.perf_counter()
        do()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000, (cpu_s(pid) - before) / times * 1000


def main(before: Path, after: Path, rounds: int) -> None:
    """Print a line for each operation."""
    found: dict[Path, list[Figures]] = {before: [], after: []}
    for number in range(rounds):
        for checkout in (before, after) if number % 2 else (after, before):
            with tempfile.TemporaryDirectory() as folder:
                found[checkout].append(figures_of(checkout, Path(folder)))
    for name in found[after][0]:
        old, new = (
            [statistics.median(figures[name][n] for figures in found[checkout]) for n in range(2)]
            for checkout in (before, after)
        )
        sys.stdout.write(
            f"{name:16} before {old[0]:7.3f} ms, CPU {old[1]:7.3f}   after {new[0]:7.3f} ms, CPU {new[1]:7.3f}"
            f"   ratio {new[0] / old[0]:.2f}, CPU {new[1] / old[1]:.2f}\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["4"])[0]))
