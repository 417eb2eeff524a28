"""Runs that are looked for, and whether they have ended."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec

from contracts.answers.runs import RunAnswer
from contracts.events import RunRequested
from domain.errors import InvalidField, RunNotFound
from projections.runs import row_as_requested
from services.gateway.answers import runs as answers
from services.gateway.answers.values import Row
from services.gateway.parts import GatewayParts
from services.gateway.queries.filters import RUNS, SQL
from services.gateway.queries.search import by_id, chosen, row_query, rows_of, thread_row
from services.kit.ids import parse_uuid

SELECTABLE = frozenset(RunAnswer.__struct_fields__)
LARGE = frozenset({"kwargs", "input", "output", "config", "context"})
NEWEST = (1 << 62, b"\xff" * 17)
"""Before it is every run: microseconds, and a key behind all."""


class RunAddress(msgspec.Struct, frozen=True):
    """Where a run is."""

    run_id: UUID
    thread_id: UUID

    @property
    def path(self) -> str:
        """Its address; clients read both ids from it."""
        return f"/threads/{self.thread_id}/runs/{self.run_id}"


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs; both that are given must be met."""

    status: str | None = None
    cron_id: UUID | None = None


def visible(parts: GatewayParts, run_id: UUID, thread_id: UUID | None = None) -> Row:
    """The row of a run that clients may see, of that thread if one is named. Raises RunNotFound."""
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None or row["hidden"] or thread_id not in (None, UUID(bytes=row["thread_id"])):
        raise RunNotFound("Run not found")
    return row


def address_of(row: Row) -> RunAddress:
    """Where the run of the row is."""
    return RunAddress(UUID(bytes=row["run_id"]), UUID(bytes=row["thread_id"]))


def shown(parts: GatewayParts, run_id: UUID, thread_id: UUID | None = None) -> RunAnswer:
    """The run. Raises RunNotFound."""
    return answers.run(visible(parts, run_id, thread_id), parts.log.blob)


def to_watch(parts: GatewayParts, run_id: UUID, thread_id: UUID | None) -> tuple[Row, bool]:
    """The row of the run, and whether its events have ids. Raises RunNotFound."""
    row = visible(parts, run_id, thread_id)
    return row, answers.kwargs_of(row, parts.log.blob).resumable


def first_shown(parts: GatewayParts, run_id: UUID) -> RunAnswer | None:
    """A run that was just asked for, as its client sees it first; None when none was asked for.

    Somebody may have undone it before we could look. It was accepted all the same.
    """
    row = by_id(parts.views, "runs", "run_id", run_id)
    if row is None or row["hidden"]:
        told = ((event, event.body) for event in parts.log.stream(run_id))
        asked = next(((event, body) for event, body in told if isinstance(body, RunRequested)), None)
        if asked is None:
            return None
        row = row_as_requested(*asked)
    return answers.run(row, parts.log.blob)


def stopped(parts: GatewayParts, before: Row) -> RunAnswer:
    """A run that was asked to stop, also when nothing of it is left: then as it was, and interrupted."""
    row = by_id(parts.views, "runs", "run_id", UUID(bytes=before["run_id"]))
    if row is None or (row["hidden"] and row["phase"] != "ended"):
        row = {**(row or before), "status": "interrupted"}
    return answers.run(row, parts.log.blob)


def of_thread(
    parts: GatewayParts, thread_id: UUID, status: str | None, select: Sequence[str], limit: int, offset: int
) -> Iterator[Any]:
    """Runs of a thread, newest first. Raises ThreadNotFound, InvalidField."""
    _check_select(select)
    thread_row(parts, thread_id)
    name, params = ("runs_of_thread", ()) if status is None else ("runs_of_thread_by_status", (status,))
    found = parts.views.all(SQL[name], (thread_id.bytes, *params, limit, offset))
    return _told(parts, [row["id"] for row in found], select)


def of_all(
    parts: GatewayParts, wanted: RunFilter, select: Sequence[str], limit: int, cursor: str | None
) -> tuple[Iterator[Any], dict[str, str]]:
    """Runs of all threads, newest first, and where the next page begins. Raises InvalidField.

    It begins behind a run, not at a number of them: those that come meanwhile move nothing.
    """
    _check_select(select)
    name, params = _query_of(wanted)
    behind = NEWEST if cursor is None else _place_of(cursor)
    found = parts.views.all(SQL[name], (*params, *behind, limit + 1))
    shown = found[:limit]
    headers = {"X-Pagination-Next": _cursor_of(shown[-1])} if len(found) > limit else {}
    return _told(parts, [row["run_id"] for row in shown], select), headers


def _query_of(wanted: RunFilter) -> tuple[str, tuple[Any, ...]]:
    """The query that has an index for just that, and its parameters."""
    match wanted.cron_id, wanted.status:
        case None, None:
            return "runs_of_all", ()
        case None, status:
            return "runs_by_status", (status,)
        case UUID() as cron_id, None:
            return "runs_of_cron", (cron_id.bytes,)
        case cron_id, status:
            return "runs_of_cron_by_status", (cron_id.bytes, status)


def _cursor_of(row: Row) -> str:
    return f"{row['created_at']}.{UUID(bytes=row['run_id'])}"


def _place_of(cursor: str) -> tuple[int, bytes]:
    """The place of a run in the order, there or gone meanwhile."""
    at, _, text = cursor.partition(".")
    run_id = parse_uuid(text)
    if run_id is None or not (at.isascii() and at.isdigit() and len(at) < 19):
        raise InvalidField("cursor: must be the X-Pagination-Next of a page before")
    return int(at), run_id.bytes


def _check_select(select: Sequence[str]) -> None:
    if unknown := set(select) - SELECTABLE:
        raise InvalidField(f"select: unknown {', '.join(sorted(unknown))[:200]}")


def _told(parts: GatewayParts, ids: Sequence[bytes], select: Sequence[str]) -> Iterator[Any]:
    """The runs of these ids, as far as they are still there."""
    query = SQL["run_without_values"] if select and not LARGE & set(select) else row_query(RUNS)
    rows = rows_of(parts.views, query, ids)
    return chosen((answers.run(row, parts.log.blob) for row in rows), select)


def active(parts: GatewayParts, status: str) -> list[RunAddress]:
    """Runs that may be stopped, of that status or `all`."""
    rows = parts.views.all(SQL["active_runs"])
    return [address_of(row) for row in rows if status in ("all", row["status"])]
