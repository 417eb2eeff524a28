"""The pool of children: who is blamed for a crash, who answers meanwhile, what a stop takes."""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from contracts.frames import Emitted
from contracts.queries import QueryAnswer, Schemas, State
from contracts.subjects import DEFAULT_POOL, graph_query_subject
from services.kit.bus.nats import NatsBus
from services.kit.lifecycle import health, notices
from services.worker.answers import Answering
from services.worker.children import ChildPool, NoPlace
from services.worker.graph_child import ChildDied, GraphLoadFailed, NoAnswer, ending
from tests.services.graph_children import Bench, ask, bench_of, values

GRAPHS = """
    import asyncio, fcntl, operator, os, time
    from typing import Annotated, Any, TypedDict
    from langgraph.config import get_stream_writer
    from langgraph.graph import START, StateGraph

    class State(TypedDict, total=False):
        trail: Annotated[list, operator.add]
        value: Any

    def of(node):
        builder = StateGraph(State)
        builder.add_node("n", node)
        builder.add_edge(START, "n")
        return builder.compile()

    async def until_go(state):
        get_stream_writer()("begun")
        while not os.path.exists(os.environ["GO"]): await asyncio.sleep(0.01)
        return {"trail": [os.getpid()]}
    async def block(state):
        get_stream_writer()("begun")
        await asyncio.sleep(0.1)
        while not os.path.exists(os.environ["GO"]): time.sleep(0.01)
        return {"trail": ["blocked"]}
    def crash(state): os._exit(9)
    def hoard(state):
        kept = [bytearray(50_000_000) for _ in range(40)]
        return {"trail": [len(kept)]}
    def fork(state):
        fcntl.flock(os.open(os.environ["TRAIL"], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)  # held by both
        if os.fork() == 0: time.sleep(60)
        os._exit(7)
    waiting, blocking, crashing, hoarding, forking = of(until_go), of(block), of(crash), of(hoard), of(fork)

    def marked(config):
        if os.path.exists(os.environ["TRAIL"]): time.sleep(60)
        return of(lambda state: {"trail": ["marked"]})
    async def dawdling():
        if os.path.exists(os.environ["TRAIL"]): await asyncio.sleep(60)
        return of(lambda state: {"trail": ["marked"]})
"""
NAMES = ["waiting", "blocking", "crashing", "hoarding", "forking", "marked", "dawdling"]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of(tmp_path, GRAPHS, NAMES) as bench:
        yield bench


async def begun(bench: Bench, pool: ChildPool, graph: str, *run_ids: str) -> list["asyncio.Task[object]"]:
    """Runs of a graph that says when it has begun, and that they have."""
    running: list[asyncio.Task[object]] = []
    for run_id in run_ids:
        work = bench.run(pool, graph, run_id=run_id, thread_id=run_id, stream_modes=["custom"])
        running.append(asyncio.create_task(work))
    for run_id in run_ids:
        await bench.until(lambda event, run_id=run_id: event.run_id == run_id)  # type: ignore[misc]
    bench.events.clear()
    return running


async def until(fits: Callable[[], object]) -> None:
    """Return when it is so: what happens in another process is told by nobody."""
    async with asyncio.timeout(30):
        while not fits():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def is_free(file: IO[str]) -> bool:
    """Whether nobody has it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def child_at(pool: ChildPool, name: str) -> Any:
    """The child at a place of the pool, None without one."""
    [found] = [part for part in pool.parts if part.name == f"worker.{name}"]
    return found.child  # type: ignore[attr-defined]


def place(pool: ChildPool, name: str) -> int:
    """Its process id, 0 without one."""
    child = child_at(pool, name)
    return child.pid if child is not None and child.alive else 0


async def died(running: "asyncio.Task[object]") -> tuple[str, bool]:
    with pytest.raises(ChildDied) as lost:
        await running
    return lost.value.loss.why, lost.value.loss.counts


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of another process")
async def test_users_code_is_given_none_of_our_passwords(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CRONLEDGER_NATS_URL", "CRONLEDGER_DATABASE_URL", "CRONLEDGER_WEBHOOK_SECRETS", "THEIRS"):
        monkeypatch.setenv(name, f"value-of-{name}")
    [pid] = (await bench.pool()).pids
    environment = Path(f"/proc/{pid}/environ").read_text()
    assert "value-of-THEIRS" in environment
    assert "value-of-CRONLEDGER" not in environment


async def test_a_crash_counts_against_a_run_that_was_alone(bench: Bench) -> None:
    pool = await bench.pool()
    for _ in range(2):
        why, counts = await died(asyncio.create_task(bench.run(pool, "crashing")))
        assert (why, counts) == ("the graph process ended with exit code 9", True)


async def test_who_was_together_goes_on_alone_until_it_is_known_who_it_was(bench: Bench) -> None:
    pool = await bench.pool()
    neighbours = await begun(bench, pool, "waiting", "a", "b")
    crash = asyncio.create_task(bench.run(pool, "crashing"))
    assert {await died(run) for run in (*neighbours, crash)} == {
        ("the graph process ended with exit code 9", False)
    }
    # `a` is alone now, `crashing` waits for its end, and runs that were not there wait for nobody.
    [first] = await begun(bench, pool, "waiting", "a")
    crash = asyncio.create_task(bench.run(pool, "crashing"))
    second = asyncio.create_task(bench.run(pool, "waiting", run_id="b", stream_modes=["custom"]))
    [other] = await begun(bench, pool, "waiting", "c")
    assert (crash.done(), second.done()) == (False, False)
    alone = place(pool, "quarantine")
    bench.go.touch()
    assert values(await first) == {"trail": [alone]}  # type: ignore[arg-type]
    assert values(await other) != {"trail": [alone]}  # type: ignore[arg-type]
    pool.over("a")
    assert (await died(crash))[1]
    assert values(await second)["trail"] != [alone]
    why, counts = await died(asyncio.create_task(bench.run(pool, "crashing")))
    assert counts, why
    for run_id in ("b", "crashing"):
        pool.over(run_id)
    await until(lambda: not place(pool, "quarantine"))


async def test_questions_are_no_company(bench: Bench) -> None:
    pool = await bench.pool()
    bench.trail.touch()
    asking = asyncio.create_task(ask(pool, Schemas(graph_id="dawdling")))
    await asyncio.sleep(0)
    assert (await died(asyncio.create_task(bench.run(pool, "crashing"))))[1]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_child_that_forked_is_not_waited_for(bench: Bench) -> None:
    pool = await bench.pool()
    why, counts = await died(asyncio.create_task(bench.run(pool, "forking")))
    assert (why, counts) == ("the graph process ended with exit code 7", True)
    with bench.trail.open() as trail:  # what it left behind is ended, too
        await until(lambda: is_free(trail))


async def test_frames_that_can_not_be_taken_keep_nobody_waiting(bench: Bench) -> None:
    def broken(event: Emitted) -> None:
        raise AssertionError

    bench.hear = broken  # type: ignore[method-assign]
    pool = await bench.pool()
    why, counts = await died(asyncio.create_task(bench.run(pool, "waiting", stream_modes=["custom"])))
    assert (why, counts) == ("what the graph process sent could not be taken", True)


NO_LOG: Any = None  # what is no question is not looked up either


NO_QUESTIONS = [b"", b"}{", b"\xff", b'{"graph_id": "\xff"}', b"[]", b'{"graph_id": 1}']


async def test_what_is_no_question_reaches_no_child(bench: Bench, bus: NatsBus) -> None:
    pool = await bench.pool()
    answering, child = Answering(bus, pool, NO_LOG, DEFAULT_POOL), place(pool, "questions")
    await answering.start()
    subject = graph_query_subject(State.VERB)
    for data in NO_QUESTIONS:
        told = msgspec.json.decode(await bus.request(subject, data, 20), type=QueryAnswer)
        assert told.failed is not None, data
        assert told.failed.code == "invalid", data
        assert await ask(pool, Schemas(graph_id="waiting"))
        assert place(pool, "questions") == child, data
    await answering.stop()


async def test_beside_a_blocked_child_another_takes_the_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await bench.pool()
    [pid] = pool.pids
    [blocked] = await begun(bench, pool, "blocking", "blocked")
    await until(lambda: not child_at(pool, "child1").able)
    [run] = await begun(bench, pool, "waiting", "free")
    assert place(pool, "spare1") not in (0, pid)
    assert not blocked.done()
    monkeypatch.setattr("services.worker.graph_child.TOLD_S", 3.0)
    assert f"{pid} has not answered" in notices(pool.parts)["worker.child1"]
    bench.go.touch()
    assert values(await blocked)["trail"] == ["blocked"]  # type: ignore[arg-type]
    await run
    await until(lambda: not place(pool, "spare1"))
    assert (pool.pids, set(health([pool]).values()), notices([pool])) == ([pid], {""}, {})


async def test_questions_are_answered_while_every_run_child_is_blocked(bench: Bench) -> None:
    pool = await bench.pool()
    await bench.run(pool, "marked")
    [blocked] = await begun(bench, pool, "blocking", "blocked")
    state = await ask(pool, State(graph_id="marked", thread_id="marked"))
    assert state["values"]["trail"] == ["marked"]
    bench.go.touch()
    await blocked


async def test_a_question_that_blocks_ends_with_a_word_and_others_go_on(bench: Bench) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, question_timeout_s=15.0)
    pool = await bench.pool()
    assert await ask(pool, Schemas(graph_id="marked"))
    before = place(pool, "questions")
    bench.trail.touch()
    stuck = asyncio.create_task(ask(pool, Schemas(graph_id="marked")))
    # Who asks in the second before it is known that the process is silent shares the other's fate.
    await until(lambda: child_at(pool, "questions").silent_s > 0.5)
    bench.trail.unlink()
    other = asyncio.create_task(ask(pool, Schemas(graph_id="marked")))
    with pytest.raises(NoAnswer, match="did not answer any more"):
        await stuck
    assert (await other)["graph_id"] == "marked"
    assert place(pool, "questions") != before
    assert (await bench.run(pool, "marked")).status == "success"


async def test_a_question_that_only_waits_is_dropped_alone(bench: Bench) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, question_timeout_s=6.0)
    pool = await bench.pool()
    assert await ask(pool, Schemas(graph_id="marked"))
    before = place(pool, "questions")
    bench.trail.touch()
    with pytest.raises(NoAnswer, match="no answer in 6 s"):
        await ask(pool, Schemas(graph_id="dawdling"))
    bench.trail.unlink()
    assert await ask(pool, Schemas(graph_id="marked"))
    assert place(pool, "questions") == before


async def test_no_place_is_told_and_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.children.PLACE_S", 4.0)
    pool = await bench.pool()
    (bench.folder / "graphs.py").write_text("raise OSError('no more')")
    await died(asyncio.create_task(bench.run(pool, "crashing")))
    pool.over("crashing")
    with pytest.raises(NoPlace, match="no more"):
        await bench.run(pool, "waiting")
    assert "no more" in health(pool.parts)["worker.child1"]


async def test_memory_beyond_the_limit_is_an_error_of_the_run(bench: Bench) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, child_memory_mb=800)
    pool = await bench.pool()
    ended = await bench.run(pool, "hoarding")
    assert ended.failure is not None
    assert (ended.status, ended.failure.error) == ("error", "MemoryError")
    bench.go.touch()
    assert (await bench.run(pool, "waiting")).status == "success"


async def test_a_stop_waits_for_nothing_that_hangs(bench: Bench) -> None:
    pool = await bench.pool()
    [blocked] = await begun(bench, pool, "blocking", "blocked")
    pids = [place(pool, name) for name in ("child1", "questions")]
    began = time.monotonic()
    await pool.stop()
    await pool.stop()
    assert time.monotonic() - began < 6
    assert await died(blocked) == ("the graph process was ended: the worker stops", False)
    for pid in filter(None, pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_after_a_stop_each_database_is_one_file(bench: Bench) -> None:
    pool = await bench.pool(2)
    await bench.run(pool, "marked")
    await ask(pool, State(graph_id="marked", thread_id="marked"))
    await until(lambda: place(pool, "child2"))
    await pool.stop()
    assert sorted(path.name for path in bench.folder.glob("*.db*") if path.suffix != ".setup") == [
        "checkpoints.db",
        "store.db",
    ]


async def test_a_signal_to_our_group_reaches_no_child(bench: Bench) -> None:
    pool = await bench.pool()
    [pid] = pool.pids
    assert os.getpgid(pid) == os.getsid(pid) == pid


def test_how_a_process_ended_is_told() -> None:
    assert ending(-signal.SIGSEGV) == "the graph process was ended by SIGSEGV"
    assert ending(-signal.SIGKILL).endswith("by SIGKILL (perhaps by the out-of-memory killer)")
    assert ending(3) == "the graph process ended with exit code 3"


async def test_who_is_started_answers_at_once(bench: Bench) -> None:
    pool = await bench.pool()
    assert place(pool, "questions")
    assert place(pool, "child1")


async def test_a_start_that_fails_leaves_no_process(bench: Bench) -> None:
    (bench.folder / "graphs.py").write_text("import os\nopen('started', 'a').write(f'{os.getpid()} ')\nfail")
    with pytest.raises(GraphLoadFailed, match="fail"):
        await bench.pool()
    for pid in map(int, (bench.folder / "started").read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
