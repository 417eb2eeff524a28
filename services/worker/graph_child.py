"""The worker's handle of one graph child."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from contracts.frames import (
    LENGTH,
    MOST_BYTES,
    CancelRun,
    Emitted,
    ForgetThread,
    Forgotten,
    FromChild,
    GraphSource,
    Hello,
    LoadFailed,
    Ready,
    RunEnded,
    StartRun,
    ToChild,
    packed,
    unpacked,
)
from services.kit.project import Project

CHILD = Path(__file__).with_name("child.py")
START_S = 120.0
OnEvent = Callable[[Emitted], Awaitable[None]]


class ChildDied(Exception):
    """The process is gone, and with it every run that it had."""


class GraphLoadFailed(Exception):
    """A graph of the project can't be loaded; the text is for its author."""


class GraphChild:
    """One process that runs graphs. `start` once; after `ChildDied` make another one."""

    def __init__(self, project: Project, checkpoints: Path, python: Path, threads: int) -> None:
        self._project, self._checkpoints = project, checkpoints
        self._python, self._threads = python, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._runs: dict[str, tuple[asyncio.Future[RunEnded], OnEvent]] = {}
        self._forgetting: dict[str, asyncio.Future[None]] = {}
        self._ready: asyncio.Future[Ready] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.alive = False
        self.died = asyncio.Event()

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
        if not self.alive:
            raise ChildDied("the graph child is not running")
        future: asyncio.Future[RunEnded] = asyncio.get_running_loop().create_future()
        self._runs[start.run_id] = (future, on_event)
        try:
            self._send(start)
            return await future
        finally:
            self._runs.pop(start.run_id, None)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop; how it ended comes as ever."""
        if self.alive and run_id in self._runs:
            self._send(CancelRun(run_id=run_id))

    async def forget(self, thread_id: str) -> None:
        """Remove a thread's checkpoints. Raises ChildDied."""
        if not self.alive:
            raise ChildDied("the graph child is not running")
        future = self._forgetting.setdefault(thread_id, asyncio.get_running_loop().create_future())
        self._send(ForgetThread(thread_id=thread_id))
        await asyncio.shield(future)

    def kill(self) -> None:
        """End the process at once; its runs get ChildDied."""
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
            threads=self._threads,
        )

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
                await self._take(unpacked(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except msgspec.DecodeError as exc:
            why = f"the graph child sent what is no frame: {exc}"
        finally:
            self.kill()
            self._lost(why)

    async def _take(self, frame: FromChild) -> None:
        match frame:
            case Emitted():
                if (waiting := self._runs.get(frame.run_id)) is not None:
                    await waiting[1](frame)
            case RunEnded():
                if (waiting := self._runs.get(frame.run_id)) is not None and not waiting[0].done():
                    waiting[0].set_result(frame)
            case Ready():
                self._settle_ready(frame)
            case LoadFailed():
                self._settle_ready(GraphLoadFailed(frame.error))
            case Forgotten():
                if (future := self._forgetting.pop(frame.thread_id, None)) is not None:
                    future.set_result(None)

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
        for future, _ in self._runs.values():
            if not future.done():
                future.set_exception(ChildDied(why))
        for forgetting in self._forgetting.values():
            if not forgetting.done():
                forgetting.set_exception(ChildDied(why))
        self._forgetting.clear()
        if self._writer is not None:
            self._writer.close()
