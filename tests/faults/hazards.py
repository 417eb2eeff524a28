"""The production shape, with everything that can be broken in it, and mended again."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import psycopg

from contracts.subjects import RUNS
from tests.faults.plans import Breakage
from tests.nats import NatsCluster
from tests.postgres import Postgres
from tests.production import Production
from tests.wire import Wire

STOP_S = 30.0
Break = Callable[[Breakage], Awaitable[None]]


class Hazards:
    """PostgreSQL and NATS behind wires, and the processes of all services on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(durable=True).start()
        self.cluster = NatsCluster(folder / "nats", is_told=False).start()
        self._wire = Wire(self.postgres.port)
        self._wires = [Wire(node.port) for node in self.cluster.nodes]
        self._away: set[str] = set()

    async def start(self) -> "Hazards":
        """Return when every service is ready."""
        for wire in (self._wire, *self._wires):
            await wire.start()
        urls = ",".join(f"nats://127.0.0.1:{wire.port}" for wire in self._wires)
        database = f"postgresql://postgres@127.0.0.1:{self._wire.port}/{{database}}"
        self.production = await asyncio.to_thread(
            Production, self.folder, self.postgres, urls, database, CRONLEDGER_CATCH_UP_SPREAD_S="1"
        )
        migrated = await asyncio.to_thread(self.production.command, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        self.production.begin(*self.production.names)
        await asyncio.to_thread(self.production.wait, *self.production.names)
        return self

    async def stop(self) -> None:
        """End everything, whatever was broken."""
        await asyncio.to_thread(self.production.close)
        for wire in (self._wire, *self._wires):
            await wire.stop()
        await asyncio.to_thread(self.cluster.stop)
        await asyncio.to_thread(self.postgres.close)

    async def carry_out(self, plan: list[Breakage]) -> None:
        """Break and mend as the plan says; returns when everything is mended and every process runs."""
        begun = asyncio.get_running_loop().time()

        async def one(breakage: Breakage) -> None:
            await asyncio.sleep(begun + breakage.at_s - asyncio.get_running_loop().time())
            break_: Break = getattr(self, f"_{breakage.kind}")
            await break_(breakage)

        await asyncio.gather(*(one(breakage) for breakage in plan))
        await self._revive(*self.production.names)

    # --- processes ----------------------------------------------------------------------------------

    async def _kill(self, breakage: Breakage) -> None:
        async with Alone(self._away, breakage.target) as is_ours:
            if is_ours:
                await asyncio.to_thread(self.production.kill, breakage.target)
                await asyncio.sleep(breakage.for_s)
                await self._revive(breakage.target)

    async def _stop(self, breakage: Breakage) -> None:
        async with Alone(self._away, breakage.target) as is_ours:
            if is_ours:
                await asyncio.to_thread(self.production.end, breakage.target, STOP_S)
                await asyncio.sleep(breakage.for_s)
                await self._revive(breakage.target)

    async def _stall(self, breakage: Breakage) -> None:
        async with Alone(self._away, breakage.target) as is_ours:
            if is_ours:
                self.production.signal(breakage.target, signal.SIGSTOP)
                await asyncio.sleep(breakage.for_s)
                self.production.signal(breakage.target, signal.SIGCONT)

    async def _clock(self, breakage: Breakage) -> None:
        file = self.production.clock_of(breakage.target)
        file.write_text(str(breakage.by))
        await asyncio.sleep(breakage.for_s)
        file.unlink(missing_ok=True)

    async def _revive(self, *names: str) -> None:
        """Start these until they are there, as a service manager would: what they need may be away just now."""
        for name in names:
            async with asyncio.timeout(180):
                while not self.production.is_running(name):
                    self.production.begin(name)
                    try:
                        await asyncio.to_thread(self.production.wait, name)
                    except AssertionError:
                        await asyncio.to_thread(self.production.kill, name)
                        await asyncio.sleep(0.5)

    # --- NATS ---------------------------------------------------------------------------------------

    async def _nats_leader(self, breakage: Breakage) -> None:
        name = await self._leader()
        node = self.cluster.node(name)
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(breakage.for_s)
        await asyncio.to_thread(self.cluster.start)

    async def _nats_all(self, breakage: Breakage) -> None:
        await asyncio.to_thread(self.cluster.stop)
        await asyncio.sleep(breakage.for_s)
        await asyncio.to_thread(self.cluster.start)

    async def _nats_cut(self, breakage: Breakage) -> None:
        for wire in self._wires:
            wire.cut()
        await asyncio.sleep(breakage.for_s)
        for wire in self._wires:
            wire.mend()

    async def _leader(self) -> str:
        """Of the stream of runs; the first server when nobody can say."""
        try:
            async with asyncio.timeout(2):
                client = await nats.connect(self.cluster.url.split(","), allow_reconnect=False)
                try:
                    info = await client.jetstream().stream_info(RUNS.name)
                finally:
                    await client.close()
            return (info.cluster.leader if info.cluster else "") or self.cluster.nodes[0].name
        except (TimeoutError, OSError, nats.errors.Error):
            return self.cluster.nodes[0].name

    # --- PostgreSQL ---------------------------------------------------------------------------------

    async def _postgres_restart(self, breakage: Breakage) -> None:
        async with Alone(self._away, "postgres") as is_ours:
            if is_ours:
                await asyncio.to_thread(self.postgres.kill)
                await asyncio.sleep(breakage.for_s)
                await asyncio.to_thread(self.postgres.start)

    async def _postgres_terminate(self, _: Breakage) -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        await self._asked(self.production.database_url, query)

    async def _postgres_cut(self, breakage: Breakage) -> None:
        self._wire.cut()
        await asyncio.sleep(breakage.for_s)
        self._wire.mend()

    async def _postgres_slow(self, breakage: Breakage) -> None:
        self._wire.delay_s = breakage.by
        await asyncio.sleep(breakage.for_s)
        self._wire.delay_s = 0.0

    async def _disk_slow(self, breakage: Breakage) -> None:
        # What a commit waits for its flush, as if the disk took so long.
        micros = int(breakage.by * 1_000_000)
        for setting in (f"commit_delay = {min(100_000, micros)}", "commit_siblings = 0"):
            await self._asked(self.postgres.url, f"ALTER SYSTEM SET {setting}")
        await self._asked(self.postgres.url, "SELECT pg_reload_conf()")
        await asyncio.sleep(breakage.for_s)
        await self._asked(self.postgres.url, "ALTER SYSTEM RESET commit_delay")
        await self._asked(self.postgres.url, "SELECT pg_reload_conf()")

    async def _asked(self, url: str, query: str) -> None:
        """Beside the wire; nothing when the server is away just now."""

        def ask() -> None:
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
                    connection.execute(query.encode())
            except psycopg.OperationalError:
                pass

        await asyncio.to_thread(ask)


class Alone:
    """Whoever is away already is not broken once more: `async with` says whether it is ours to break."""

    def __init__(self, away: set[str], name: str) -> None:
        self._away, self._name = away, name

    async def __aenter__(self) -> bool:
        self._is_ours = self._name not in self._away
        self._away.add(self._name)
        return self._is_ours

    async def __aexit__(self, *_: object) -> None:
        if self._is_ours:
            self._away.discard(self._name)
