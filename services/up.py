"""The embedded shape: every service as a part of one process, beside a nats-server and the graph children."""

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from contracts.codec import EventCodec
from contracts.subjects import STREAMS, log_append_subject, log_nudge_subject, view_position_subject
from services.gateway.app import GatewayParts, build_app
from services.gateway.server import GatewayServer
from services.kit.bus import Msg
from services.kit.bus.embedded import EmbeddedNats, NatsStartFailed
from services.kit.bus.nats import NatsBus, ensure_streams
from services.kit.clock import SystemClock
from services.kit.eventlog.recorder import ForeignLedger
from services.kit.eventlog.remote import serve_remote
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.lifecycle import Part, ended
from services.kit.project import Project, load_project
from services.kit.settings import Settings
from services.kit.views import Views
from services.projector.projector import Projector
from services.relay.relay import Relay
from services.scheduler.scheduler import Scheduler
from services.worker.children import ChildPool
from services.worker.graph_child import GraphLoadFailed
from services.worker.lease import PREFIX as WORKER_PREFIX
from services.worker.lease import void_leases
from services.worker.worker import Worker

log_ = logging.getLogger("cronledger.up")


Runner = Callable[[Coroutine[Any, Any, None]], None]


class StartFailed(Exception):
    """The server can't start; the text says why and what to do."""


class Embedded:
    """A whole server in one data folder. `start` gives up cleanly; `stop` is safe at any time, twice too."""

    def __init__(self, settings: Settings, project: Project) -> None:
        self.settings = settings
        self.project = project
        self.folder = Path(settings.data).absolute()
        self.clock = SystemClock()
        self._started: list[Part] = []
        self._lock = -1
        self.gateway: GatewayServer | None = None

    async def start(self) -> None:
        """Start everything, in the order in which one part needs the other."""
        try:
            self._take_folder()
            await self._start_parts()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything, newest first: no new requests, then no new firings, then runs, then the log."""
        while self._started:
            await self._started.pop().stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def failed(self) -> str:
        """Wait until a part has failed for good; why."""
        return await self._nats.wait_failed()

    def _take_folder(self) -> None:
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._lock = os.open(self.folder / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(
                f"another cronledger runs on {self.folder}; stop it or give another folder with --data"
            ) from None

    async def _start_parts(self) -> None:
        self._nats = EmbeddedNats(self.folder / "nats")
        await self._begin(self._nats)
        bus = await NatsBus.connect(self._nats.endpoint, "cronledger")
        self._started.append(_Closing(bus))
        await ensure_streams(bus, STREAMS)
        log = SqliteLog(self.folder / "ledger.db", EventCodec())
        await self._begin(_Log(log))
        # The folder is ours alone, so whoever held a worker's lease here is dead.
        await void_leases(log, WORKER_PREFIX)
        projector = Projector(log, self.folder / "views.db")
        await self._begin(projector)
        await self._begin(_Announcer(log, projector, bus))
        views = Views(self.folder / "views.db")
        await projector.reached(log.head(), 600.0)
        children = ChildPool(self.settings, self.project, self.folder)
        await self._begin(children)
        relay = Relay(log, views, bus, self.clock)
        await self._begin(relay)
        worker = Worker(
            log, bus, children, self.project, self.clock, self.settings, worker_id=f"w-{uuid4().hex[:12]}"
        )
        await self._begin(worker)
        scheduler = Scheduler(log, views, self.clock, self.settings)
        await self._begin(scheduler)
        await projector.reached(log.head(), 60.0)
        parts = GatewayParts(
            log=log,
            views=views,
            reached=projector.reached,
            changed=projector.changed,
            clock=self.clock,
            settings=self.settings,
            bus=bus,
            health=lambda: {"scheduler": scheduler.healthy, "bus": "" if bus.connected else "not connected"},
            version=version("cronledger"),
            graphs=tuple(self.project.graphs),
        )
        self.gateway = GatewayServer(build_app(parts), self.settings.host, self.settings.port)
        await self._begin(self.gateway)
        await self._begin(parts)  # stopped first: streams end before the server waits for them

    async def _begin(self, part: Part) -> None:
        self._started.append(part)
        await part.start()


class _Closing:
    """A connection as a part: there is nothing to start."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        await self._bus.close()


class _Log:
    """The log as a part."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log

    async def start(self) -> None:
        await self._log.start()

    async def stop(self) -> None:
        await self._log.close()


class _Announcer:
    """Tells other processes on the bus of new positions, and appends for those that do not own the log."""

    def __init__(self, log: SqliteLog, projector: Projector, bus: NatsBus) -> None:
        self._log, self._projector, self._bus = log, projector, bus
        self._serve = serve_remote(log)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def start(self) -> None:
        self._stop_callback = self._log.on_commit(lambda _: self._news.set())
        await self._bus.subscribe(log_append_subject(), self._append)
        self._task = asyncio.create_task(self._announce())

    async def stop(self) -> None:
        if self._task is None:
            return
        self._stop_callback()
        task, self._task = self._task, None
        await ended(task)

    async def _append(self, msg: Msg) -> None:
        await msg.respond(await self._serve(msg.data))

    async def _announce(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            head = self._log.head()
            await self._bus.publish(log_nudge_subject(), str(head).encode())
            await self._projector.reached(head, 2.0)
            position = str(self._projector.signal.current).encode()
            await self._bus.publish(view_position_subject(), position)


def serve(args: argparse.Namespace) -> None:
    """`cronledger up`: run until a signal comes. Raises StartFailed, ProjectError, SettingsError."""
    settings = Settings.read(data=str(args.data), host=args.host, port=args.port)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    project = load_project(args.config, Path.cwd())
    for notice in project.notices:
        log_.warning("project.notice %s", notice)
    try:
        import uvloop

        run: Runner = uvloop.run
    except ImportError:
        run = asyncio.run
    # A thread that computes hands over after 1 ms, not 5: firings and requests share one interpreter.
    sys.setswitchinterval(0.001)
    run(_serve(settings, project))


async def _serve(settings: Settings, project: Project) -> None:
    server = Embedded(settings, project)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        await server.start()
    except (GraphLoadFailed, NatsStartFailed, ForeignLedger, ConnectionError, OSError) as exc:
        raise StartFailed(str(exc)) from None
    try:
        assert server.gateway is not None
        sys.stdout.write(f"cronledger is ready on http://{settings.host}:{server.gateway.port}\n")
        sys.stdout.flush()
        failing = asyncio.create_task(server.failed())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({failing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise StartFailed(failing.result())
        failing.cancel()
    finally:
        await server.stop()
