"""The worker's handle of one graph child."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec

from contracts.frames import (
    LENGTH,
    MOST_BYTES,
    Ask,
    CancelRun,
    Emitted,
    FromChild,
    GraphSource,
    Hello,
    Lease,
    LoadFailed,
    Ready,
    RunEnded,
    StartRun,
    StoreSettings,
    ToChild,
    Told,
    packed,
    unpacked,
)
from contracts.queries import QueryFailed
from services.kit.project import Project

CHILD = Path(__file__).with_name("child") / "__main__.py"
START_S = 120.0
OnEvent = Callable[[Emitted], None]
"""Called in the loop that reads from the child: quick, and never raising."""


class ChildDied(Exception):
    """How something ended is not known, because the child is gone or had to stop.

    `excused`: the run did nothing to it; another run's kill or the end of the lease took it along.
    """

    def __init__(self, why: str, *, excused: bool = False) -> None:
        super().__init__(why)
        self.excused = excused


class GraphLoadFailed(Exception):
    """A graph of the project can't be loaded; the text is for its author."""


class NoAnswer(Exception):
    """The child has no answer to a question, and says why."""

    def __init__(self, failed: QueryFailed) -> None:
        super().__init__(f"{failed.code}: {failed.message}")
        self.failed = failed


class GraphChild:
    """One process that runs graphs. `start` once; after `ChildDied` make another one."""

    def __init__(
        self,
        project: Project,
        checkpoints: Path,
        store: StoreSettings,
        python: Path,
        threads: int,
        until_s: float,
    ) -> None:
        self._project, self._checkpoints, self._store = project, checkpoints, store
        self._python, self._threads, self._until_s = python, threads, until_s
        self._process: subprocess.Popen[bytes] | None = None
        self._runs: dict[str, tuple[asyncio.Future[RunEnded], OnEvent]] = {}
        self._asked: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._ask_ids = count(1)
        self._ready: asyncio.Future[Ready] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._killed_for = ""
        self.alive = False
        self.died = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Runs that it has."""
        return len(self._runs)

    @property
    def load(self) -> int:
        """Runs and questions that it has."""
        return len(self._runs) + len(self._asked)

    @property
    def pid(self) -> int:
        """The process id; after `start`."""
        assert self._process is not None
        return self._process.pid

    def holds(self, run_id: str) -> bool:
        """Whether it has that run."""
        return run_id in self._runs

    async def start(self) -> Ready:
        """Start the process and load the graphs. Raises GraphLoadFailed, ChildDied."""
        ours, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | self._project.env
        try:
            # The death signal belongs to the thread that forks, so this is not done in another one.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [str(self._python), "-P", str(CHILD), str(theirs.fileno()), str(self._project.folder)],
                cwd=self._project.folder,
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        self.alive = True
        self._ready = asyncio.get_running_loop().create_future()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        self._reading = asyncio.create_task(self._read(reader))
        self._send(self._hello())
        try:
            async with asyncio.timeout(START_S):
                return await self._ready
        except TimeoutError:
            self.kill()
            raise GraphLoadFailed(
                f"the graphs of {self._project.file} took over {START_S:g} s to load"
            ) from None

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
            raise ChildDied("the worker's lease ended while the run went on", excused=True)
        return ended

    async def ask(self, verb: str, body: msgspec.Raw) -> msgspec.Raw:
        """The answer to a question of `contracts.queries`. Raises NoAnswer, ChildDied."""
        self._require_alive()
        ask_id = next(self._ask_ids)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._asked[ask_id] = future
        try:
            self._send(Ask(id=ask_id, verb=verb, body=body))
            return await future
        finally:
            self._asked.pop(ask_id, None)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop; how it ended comes as ever."""
        if self.alive and run_id in self._runs:
            self._send(CancelRun(run_id=run_id))

    def lease(self, until_s: float) -> None:
        """Tell until when the worker's claims hold, on the host's monotonic clock."""
        self._until_s = until_s
        if self.alive and self._writer is not None:
            self._send(Lease(until_s=until_s))

    def kill(self, run_id: str = "") -> None:
        """End the process at once, for a run's sake if one is named; its runs get ChildDied."""
        self._killed_for = self._killed_for or run_id
        if self._process is not None:
            self._process.kill()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Close the connection, so that the child ends; kill it after the grace. Safe twice and unstarted."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._writer is not None:
            self._writer.close()
        try:
            await asyncio.to_thread(process.wait, grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    def _hello(self) -> Hello:
        graphs = {
            graph_id: GraphSource(
                variable=spec.variable, path=str(spec.path) if spec.path else "", module=spec.module
            )
            for graph_id, spec in self._project.graphs.items()
        }
        return Hello(
            graphs=graphs,
            roots=[str(root) for root in self._project.roots],
            checkpoints=str(self._checkpoints),
            store=self._store,
            threads=self._threads,
            until_s=self._until_s,
        )

    def _require_alive(self) -> None:
        if not self.alive:
            raise ChildDied("the graph child is not running", excused=True)

    def _send(self, frame: ToChild) -> None:
        assert self._writer is not None
        self._writer.write(packed(frame))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the graph child died"
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(LENGTH), "big")
                if length > MOST_BYTES:
                    why = f"the graph child sent a frame of {length} bytes"
                    break
                self._take(unpacked(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except msgspec.DecodeError as exc:
            why = f"the graph child sent what is no frame: {exc}"
        finally:
            self.kill()
            self._lost(why)

    def _take(self, frame: FromChild) -> None:
        match frame:
            case Emitted():
                if (waiting := self._runs.get(frame.run_id)) is not None:
                    waiting[1](frame)
            case RunEnded():
                if (waiting := self._runs.get(frame.run_id)) is not None and not waiting[0].done():
                    waiting[0].set_result(frame)
            case Told():
                self._settle_ask(frame)
            case Ready():
                self._settle_ready(frame)
            case LoadFailed():
                self._settle_ready(GraphLoadFailed(frame.error))

    def _settle_ask(self, told: Told) -> None:
        future = self._asked.get(told.id)
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
        self.alive = False
        self.died.set()
        self._settle_ready(ChildDied(why))
        for run_id, (running, _) in self._runs.items():
            if not running.done():
                running.set_exception(ChildDied(why, excused=self._killed_for not in ("", run_id)))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ChildDied(why, excused=bool(self._killed_for)))
        if self._writer is not None:
            self._writer.close()
