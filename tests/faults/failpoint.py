"""Failpoints: calls of an edge that raise by a plan; everything else is the real thing."""

import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.persistence import Notification
from nats.aio.msg import Msg as NatsMsg

from contracts.codec import EventCodec
from contracts.ledger import Recorded, StoredTransaction
from projections.rows import Projection, Row, Rows
from services.kit.bus import Endpoint, RequestTimeout
from services.kit.bus.nats import NatsBus
from services.kit.clock import Clock
from services.kit.eventlog import LeaseRow, LogUnavailable, WrongExpectedVersion
from services.kit.eventlog.sqlite import SqliteLog
from services.kit.views.sqlite import SqliteViews

ERRORS: Mapping[str, Callable[[str], Exception]] = {
    "log.append": LogUnavailable,  # nothing of it is stored
    "log.stored": LogUnavailable,  # it is stored, and whoever appended does not hear of it
    "log.read": sqlite3.OperationalError,
    "blob.read": sqlite3.OperationalError,
    "log.cursor": LogUnavailable,  # of a follower
    "lease": LogUnavailable,
    "view.read": sqlite3.OperationalError,
    "view.write": sqlite3.OperationalError,
    "view.bug": KeyError,
    "bus.publish": ConnectionError,
    "bus.answer": RequestTimeout,  # it was taken, and whoever sent it does not hear of it
    "bus.ack": ConnectionError,
}
CHILD_EDGES = ("child.start", "child.frame")
"""These fail in a process between us and the child: a start that ends at once, a frame at which it dies."""
EDGES = (*ERRORS, *CHILD_EDGES)
Outcome = int | WrongExpectedVersion
_spared: ContextVar[bool] = ContextVar("spared", default=False)


MOST_S = 6.0
"""Real time for which an edge fails at most: nothing makes the day's clock jump while the house waits for it."""
MANY = 4
"""Calls of a child's edge in a row that a plan that lasts lets fail."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls of one edge raise: the `first`; with `every` each so many-th from there on as well.

    With `lasts_s` all of them from the first on, for so long on the day's clock (`MOST_S` at most; of a child:
    `MANY` of them).
    """

    edge: str
    first: int
    every: int = 0
    lasts_s: float = 0.0


class Failpoints:
    """Counts the calls of each edge, and raises in those that a plan names. Used by any thread."""

    def __init__(self, plans: Sequence[Plan], clock: Clock, folder: Path) -> None:
        self.counts, self.raised = Counter[str](), Counter[str]()
        self._plans = {plan.edge: plan for plan in plans}
        self._clock, self._folder = clock, folder
        self._raised_s: dict[str, tuple[float, float]] = {}
        self._until_s: dict[str, tuple[float, float]] = {}
        self._guard = threading.Lock()
        folder.mkdir()
        for plan in plans:
            if plan.edge in CHILD_EDGES:
                data = {"first": plan.first, "every": plan.every, "many": MANY if plan.lasts_s else 1}
                (folder / plan.edge).write_bytes(msgspec.json.encode(data))

    @property
    def failing(self) -> list[str]:
        """The edges that fail now, and go on to."""
        return [edge for edge, until in tuple(self._until_s.items()) if self._before(until)]

    def hit(self, edge: str) -> None:
        """Count a call; raise in it if a plan says so."""
        if _spared.get():
            return
        with self._guard:
            self.counts[edge] += 1
            number = self.counts[edge]
            if edge not in self._plans or not self._fails(self._plans[edge], number):
                return
            self.raised[edge] += 1
            now = self._clock.monotonic_s()
            self._raised_s[edge] = (self._raised_s.get(edge, (now, now))[0], now)
        raise ERRORS[edge](f"failpoint {edge} {number}")

    def lasted_s(self, edge: str) -> float:
        """Real time between the first call of the edge that failed and the last."""
        first, last = self._raised_s.get(edge, (0.0, 0.0))
        return last - first

    def disarm(self) -> None:
        """Nothing fails from now on."""
        with self._guard:
            self._plans, self._until_s = {}, {}
        (self._folder / "over").touch()

    def child_counts(self) -> Counter[str]:
        """How often the edges of children were used, by all that there were."""
        counted = ((edge, self._folder / f"{edge}.count") for edge in CHILD_EDGES)
        return Counter({edge: path.stat().st_size for edge, path in counted if path.exists()})

    @contextmanager
    def spared(self) -> Iterator[None]:
        """What is called within neither counts nor fails: it is the test's own."""
        token = _spared.set(True)
        try:
            yield
        finally:
            _spared.reset(token)

    def python(self) -> Path:
        """An interpreter for children whose edges fail by the plans."""
        path = self._folder / "python"
        proxy = Path(__file__).with_name("child_proxy.py")
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {proxy} {self._folder} "$@"\n')
        path.chmod(0o700)
        return path

    def _fails(self, plan: Plan, number: int) -> bool:
        past = number - plan.first
        if past < 0:
            return False
        if plan.lasts_s:
            ends = (self._clock.wall_s() + plan.lasts_s, self._clock.monotonic_s() + MOST_S)
            return self._before(self._until_s.setdefault(plan.edge, ends))
        return past % plan.every == 0 if plan.every else past == 0

    def _before(self, until: tuple[float, float]) -> bool:
        return self._clock.wall_s() < until[0] and self._clock.monotonic_s() < until[1]


class FailingLog(SqliteLog):
    """A log whose edges fail, and whose clock is the day's."""

    def __init__(self, path: Path, points: Failpoints, clock: Clock) -> None:
        super().__init__(path, EventCodec())
        self._points = points
        self._recorder.clock = clock.now  # type: ignore[method-assign]

    async def append_stored(self, txs: Sequence[StoredTransaction]) -> list[Outcome]:
        self._points.hit("log.append")
        outcomes = await super().append_stored(txs)
        self._points.hit("log.stored")
        return outcomes

    async def renew_lease(self, name: str, holder: str, ttl_s: float) -> LeaseRow | None:
        self._points.hit("lease")
        return await super().renew_lease(name, holder, ttl_s)

    async def move_cursor(self, name: str, position: int) -> None:
        self._points.hit("log.cursor")
        await super().move_cursor(name, position)

    def cursor(self, name: str) -> int:
        self._points.hit("log.read")
        return super().cursor(name)

    def head(self) -> int:
        self._points.hit("log.read")
        return super().head()

    def stream(self, stream_id: UUID, after_version: int = 0) -> list[Recorded]:
        self._points.hit("log.read")
        return super().stream(stream_id, after_version)

    def newest(self, stream_ids: Any) -> dict[UUID, Recorded]:
        self._points.hit("log.read")
        return super().newest(stream_ids)

    def read(self, after: int, limit: int, until: int | None = None) -> list[Recorded]:
        self._points.hit("log.read")
        return super().read(after, limit, until)

    def read_topics(self, prefix: str, after: int, until: int, limit: int) -> list[Recorded]:
        self._points.hit("log.read")
        return super().read_topics(prefix, after, until, limit)

    def read_raw(self, after: int, limit: int, until: int | None = None) -> list[Notification]:
        self._points.hit("log.read")
        return super().read_raw(after, limit, until)

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        self._points.hit("log.read")
        return super().at_positions(positions)

    def leases(self, prefix: str) -> list[LeaseRow]:
        self._points.hit("log.read")
        return super().leases(prefix)

    def blob(self, sha256: str) -> bytes | None:
        self._points.hit("blob.read")
        return super().blob(sha256)


class FailingViews(SqliteViews):
    """Read models that can't always be read."""

    def __init__(self, path: Path, points: Failpoints) -> None:
        super().__init__(path)
        self._points = points

    def all(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        self._points.hit("view.read")
        return super().all(query, params)

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        self._points.hit("view.read")
        return super().one(query, params)


class FailingProjection:
    """A read model whose rows can't always be written, and that has a bug now and then."""

    def __init__(self, real: Projection, points: Failpoints) -> None:
        self._real, self._points = real, points
        self.NAME, self.VERSION, self.TABLES = real.NAME, real.VERSION, real.TABLES

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        self._points.hit("view.bug")
        self._real.apply(_FailingRows(rows, self._points), recorded)


class _FailingRows:
    def __init__(self, real: Rows, points: Failpoints) -> None:
        self._real, self._points = real, points
        self.get, self.delete, self.delete_where = real.get, real.delete, real.delete_where

    def put(self, table: str, row: Row) -> None:
        self._points.hit("view.write")
        self._real.put(table, row)


class FailingBus(NatsBus):
    """A connection that does not always take what is sent."""

    def __init__(self, endpoint: Callable[[], Endpoint], points: Failpoints) -> None:
        super().__init__(endpoint, "day")
        self._points = points

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        self._points.hit(_edge_of(subject))
        await super().publish(subject, data, headers, reply)

    async def request_msg(
        self, subject: str, data: bytes, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> NatsMsg:
        self._points.hit(_edge_of(subject))
        answer = await super().request_msg(subject, data, timeout_s, headers)
        self._points.hit("bus.answer")
        return answer


def _edge_of(subject: str) -> str:
    return "bus.ack" if subject.startswith("$JS.ACK") else "bus.publish"
