"""The worker's handle of one graph child."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from itertools import count
from pathlib import Path

import msgspec

from contracts.frames import (
    LENGTH,
    MOST_BYTES,
    Ask,
    Drop,
    Emitted,
    FromChild,
    GraphSource,
    Hello,
    LoadFailed,
    Ready,
    RunEnded,
    StartRun,
    StopRun,
    StoreSettings,
    Taken,
    ToChild,
    Told,
    packed,
    unpacked,
)
from contracts.queries import QueryFailed
from services.kit.lifecycle import Part
from services.kit.mendable import Mendable
from services.kit.project import Project
from services.kit.settings import for_users

CHILD = Path(__file__).with_name("child") / "__main__.py"
START_S = 120.0
EXIT_S = 1.0
"""How long a process may take to end by itself when its connection is closed; then it is killed."""
KILLED_S = 2.0
SILENT_S = 3.0
"""A child that has not answered a ping for so long has a node that blocks it, and gets no new work."""
TOLD_S = 10.0
"""After so long it is also told to whoever operates the server."""
REAP_S = 0.01
PING = 0
OnEvent = Callable[[Emitted], None]
"""Called in the loop that reads from the child: quick, and never raising."""
OnCrash = Callable[[Collection[str]], bool]
"""Told of the runs that a crash took along, before they are; True when it is known whose doing it was."""


class Loss(msgspec.Struct, frozen=True):
    """Why an attempt, or a question, came to nothing. It `counts` when it may be its own doing."""

    why: str
    counts: bool = False


class ChildDied(Exception):
    """How something ended is not known, because the child is gone or had to stop."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.why)
        self.loss = loss


class GraphLoadFailed(Mendable):
    """A graph of the project can't be loaded; the text is for its author."""


class NoAnswer(Exception):
    """The child has no answer to a question, and says why."""

    def __init__(self, failed: QueryFailed) -> None:
        super().__init__(f"{failed.code}: {failed.message}")
        self.failed = failed


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What every child of a worker is started with."""

    project: Project
    checkpoints: Path
    store: StoreSettings
    python: Path
    threads: int
    memory_mb: int = 0
    database: str = ""  # address of checkpoints and store in PostgreSQL, with the role that sees only them
    url: str = ""  # of the server, for what the graphs ask of it; '': whatever the environment says

    def hello(self) -> Hello:
        """The first frame."""
        graphs = {
            graph_id: GraphSource(
                variable=spec.variable, path=str(spec.path) if spec.path else "", module=spec.module
            )
            for graph_id, spec in self.project.graphs.items()
        }
        return Hello(
            graphs=graphs,
            roots=[str(root) for root in self.project.roots],
            checkpoints=str(self.checkpoints),
            store=self.store,
            database=self.database,
            threads=self.threads,
            memory_mb=self.memory_mb,
        )


class GraphChild:
    """One process that runs graphs. `start` once; after `ChildDied` make another one."""

    def __init__(self, name: str, spec: ChildSpec, on_crash: OnCrash) -> None:
        self.name, self._spec, self._on_crash = name, spec, on_crash
        self._process: subprocess.Popen[bytes] | None = None
        self._runs: dict[str, tuple[asyncio.Future[RunEnded], OnEvent]] = {}
        self._asked: dict[int, tuple[asyncio.Future[msgspec.Raw], float]] = {}  # and since when
        self._ask_ids = count(PING + 1)
        self._ready: asyncio.Future[Ready] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._living: asyncio.Task[None] | None = None
        self._pinged_s = 0.0  # monotonic; when the ping was sent that is not answered
        self.killed = ""  # why we ended it, if it was us
        self.why = ""  # it ended
        self.parts: Sequence[Part] = ()
        self.proven = False  # it has answered a ping
        self.alive = False
        self.died = asyncio.Event()
        self._cleared = False  # nothing of it is left

    @property
    def started(self) -> bool:
        return self.alive

    @property
    def failing(self) -> str:
        """'' : when it dies, another one takes its place."""
        return ""

    @property
    def notice(self) -> str:
        """That it does not answer: a node blocks it."""
        if self.silent_s < TOLD_S:
            return ""
        return f"graph process {self.pid} has not answered for {self.silent_s:.0f} s: {self.in_flight} runs in it"

    @property
    def silent_s(self) -> float:
        """Since when a ping waits for its answer; 0 when none does."""
        return time.monotonic() - self._pinged_s if self._pinged_s and self.alive else 0.0

    @property
    def able(self) -> bool:
        """Whether it may get new work."""
        return self.alive and self.silent_s < SILENT_S

    @property
    def in_flight(self) -> int:
        """Runs that it has."""
        return len(self._runs)

    @property
    def pid(self) -> int:
        """The process id; after `start`."""
        assert self._process is not None
        return self._process.pid

    def holds(self, run_id: str) -> bool:
        """Whether it has that run."""
        return run_id in self._runs

    async def start(self) -> Ready:
        """Start the process and load the graphs. Raises GraphLoadFailed, ChildDied, OSError."""
        ours, theirs = socket.socketpair()
        try:
            self._process = self._spawn(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._ready = asyncio.get_running_loop().create_future()
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        self.alive = True
        self._living = asyncio.create_task(self._live(self._reader))
        self._send(self._spec.hello())
        try:
            async with asyncio.timeout(START_S):
                return await self._ready
        except TimeoutError:
            self.kill("its graphs took too long to load")
            raise GraphLoadFailed(
                f"the graphs of {self._spec.project.file} took over {START_S:g} s to load"
            ) from None

    async def stop(self) -> None:
        """Close the connection, so that the child ends; kill it after a grace. Safe twice and unstarted."""
        if self._living is None or self._writer is None:
            self._signal()
            return
        self.killed = self.killed or "the worker stops"
        if not self.able:
            self._signal()
        self._writer.close()
        await asyncio.wait({self._living}, timeout=EXIT_S + KILLED_S)
        self._signal()

    async def run(self, start: StartRun, on_event: OnEvent) -> RunEnded:
        """Run a graph to its end. Raises ChildDied."""
        self._require_alive()
        future: asyncio.Future[RunEnded] = asyncio.get_running_loop().create_future()
        self._runs[start.run_id] = (future, on_event)
        try:
            self._send(start)
            ended = await future
        finally:
            self._runs.pop(start.run_id, None)
        if ended.status == "fenced":
            raise ChildDied(Loss("a later attempt has its thread"))
        if ended.status == "lost":
            raise ChildDied(Loss(ended.failure.message if ended.failure else "the database did not answer"))
        return ended

    async def ask(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        """The answer to a question of `contracts.queries`. Raises NoAnswer, ChildDied."""
        self._require_alive()
        ask_id = next(self._ask_ids)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._asked[ask_id] = (future, time.monotonic())
        try:
            self._send(Ask(id=ask_id, verb=verb, body=body))
            return await future
        finally:
            self._asked.pop(ask_id, None)
            if self.alive and (future.cancelled() or not future.done()):
                self._send(Drop(id=ask_id))

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop; how it ended comes as ever."""
        if self.alive and run_id in self._runs:
            self._send(StopRun(run_id=run_id))

    def taken(self, run_id: str, size: int) -> None:
        """Tell a run that so many more bytes of its events have left."""
        if self.alive and run_id in self._runs:
            self._send(Taken(run_id=run_id, size=size))

    def kill(self, why: str) -> None:
        """End the process at once, and what it has started; nothing of it counts against its runs."""
        self.killed = self.killed or why
        self._signal()

    async def look(self, within_s: float) -> None:
        """Ping it, unless a ping is under way, and return when that time is over or it has died."""
        is_gone = self._process is not None and self._process.poll() is not None
        if self.alive and not is_gone and not self._pinged_s:
            self._pinged_s = time.monotonic()
            self._send(Ask(id=PING, verb="ping", body=msgspec.Raw(b"{}")))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.died.wait()
        if is_gone and self.alive and self._reader is not None:
            # What it has sent is taken by now, and a process that it forked may hold the connection open.
            self._reader.feed_eof()

    # --- the process ------------------------------------------------------------------------------

    def _spawn(self, connection: int) -> subprocess.Popen[bytes]:
        project, url = self._spec.project, self._spec.url
        told = project.env | ({"CRONLEDGER_URL": url} if url else {})
        # The death signal belongs to the thread that forks, so this is not done in another one. A session of its
        # own: what a terminal or a service manager sends to our group is for us alone, and we tell our runs.
        return subprocess.Popen(
            # The name is for whoever lists the processes.
            [str(self._spec.python), "-P", str(CHILD), str(connection), str(project.folder), self.name],
            cwd=project.folder,
            env=for_users(os.environ) | told,
            pass_fds=(connection,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _signal(self) -> None:
        """Kill it and what it has started, which goes on when it ends by itself."""
        if self._process is None or self._cleared:
            return
        # Once when it is dead: its number stands for what it has left, and is somebody else's some time later.
        self._cleared = self._process.poll() is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _reaped(self, within_s: float) -> int | None:
        """Its exit code; None when it has not ended in that time."""
        assert self._process is not None
        until_s = time.monotonic() + within_s
        # Asked, because no descriptor tells of it on every system, and a thread that waits would be one more part.
        while (code := self._process.poll()) is None and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(REAP_S)
        return code

    # --- frames -----------------------------------------------------------------------------------

    def _require_alive(self) -> None:
        if not self.alive:
            raise ChildDied(Loss("the graph process is not running"))

    def _send(self, frame: ToChild) -> None:
        assert self._writer is not None
        self._writer.write(packed(frame))

    async def _live(self, reader: asyncio.StreamReader) -> None:
        """From the first frame to the last, and to the end of the process."""
        why = "what the graph process sent could not be taken"
        try:
            why = await self._read(reader)
        finally:
            self.alive = False
            code = await self._reaped(EXIT_S) if not why else None
            self._signal()
            await self._reaped(KILLED_S)
            self._lost(why or ending(code))
            if self._writer is not None:
                self._writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        """Take frames until there are no more; what is wrong with the last, '' when it is only the end."""
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(LENGTH), "big")
                if length > MOST_BYTES:
                    return f"the graph process sent a frame of {length} bytes"
                self._take(unpacked(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, OSError):
            return ""
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return f"the graph process sent what is no frame: {exc}"

    def _take(self, frame: FromChild) -> None:
        match frame:
            case Emitted():
                if (waiting := self._runs.get(frame.run_id)) is not None:
                    waiting[1](frame)
            case RunEnded():
                if (waiting := self._runs.get(frame.run_id)) is not None and not waiting[0].done():
                    waiting[0].set_result(frame)
            case Told(id=0):
                self._pinged_s, self.proven = 0.0, True
            case Told():
                self._settle_ask(frame)
            case Ready():
                self._settle_ready(frame)
            case LoadFailed():
                self._settle_ready(GraphLoadFailed(frame.error))

    def _settle_ask(self, told: Told) -> None:
        future, _ = self._asked.get(told.id, (None, 0.0))
        if future is None or future.done():
            return
        if told.failed is not None:
            future.set_exception(NoAnswer(told.failed))
        else:
            future.set_result(msgspec.Raw(b"null") if told.body is msgspec.UNSET else told.body)

    def _settle_ready(self, result: Ready | Exception) -> None:
        assert self._ready is not None
        if self._ready.done():
            return
        if isinstance(result, Exception):
            self._ready.set_exception(result)
        else:
            self._ready.set_result(result)

    def _lost(self, why: str) -> None:
        """Tell everybody who waits. Here alone is decided what counts.

        For a run: a crash, when it was alone. For a question: a silence, unless it stands behind the ping that has
        no answer: the child takes them in order.
        """
        self.why = f"the graph process was ended: {self.killed}" if self.killed else why
        waiting = {run_id: running for run_id, (running, _) in self._runs.items() if not running.done()}
        counts = not self.killed and bool(waiting) and self._on_crash(waiting)
        self._settle_ready(ChildDied(Loss(self.why)))
        for running in waiting.values():
            running.set_exception(ChildDied(Loss(self.why, counts)))
        for asked, since_s in self._asked.values():
            if not asked.done():
                asked.set_exception(ChildDied(Loss(self.why, counts=since_s < self._pinged_s)))
        self.died.set()


def ending(code: int | None) -> str:
    """How a process ended that nobody here has ended, by its exit code."""
    if code is None:
        return "the graph process closed its connection"
    if code >= 0:
        return f"the graph process ended with exit code {code}"
    name = signal.Signals(-code).name
    more = " (perhaps by the out-of-memory killer)" if -code == signal.SIGKILL else ""
    return f"the graph process was ended by {name}{more}"
