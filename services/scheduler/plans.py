"""What a firing needs to know of a cron, its assistant and its thread."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from contracts.codec import unpack
from contracts.ledger import Payload
from contracts.spec import CronPayload
from domain.assistant import Assistant, default_assistant_id
from domain.decisions import RunPlan, plan_of
from domain.lane import Lane
from domain.timeline import Due
from services.kit.eventlog import EventLog
from services.kit.lifecycle import FAULTS
from services.kit.queries import named
from services.kit.views import Views
from services.repository import Aggregates

MOST_BYTES = 64 << 20
"""Of the plans that are kept: 20,000 small ones, or 1,000 of the largest payload that a cron may have."""
SPARE = 3_000
"""Bytes of a plan beside its payload, about."""
SQL = named(Path(__file__).with_name("queries.sql"))
_payload = msgspec.json.Decoder(Payload)


class Planned(msgspec.Struct, frozen=True, gc=False):
    """A revision of a cron as a firing sees it. Very many are kept: out of the garbage collector's way."""

    plan: RunPlan | None  # None: its assistant is gone
    thread_id: UUID | None
    lacks: str = ""  # the graph that the project has no longer

    @property
    def lane(self) -> Lane | None:
        """The lane, to be looked up, that decides whether it fires; None: each run has a thread and may begin at once."""
        if self.thread_id is not None:
            return Lane(thread_id=self.thread_id)
        return Lane(cron_id=self.plan.cron_id) if self.plan is not None and self.plan.takes_turns else None

    @property
    def size(self) -> int:
        """Bytes, about."""
        payload = Payload() if self.plan is None else self.plan.kwargs
        return SPARE + (payload.size or len(bytes(payload.inline or b"")))


class Plans:
    """Plans of cron revisions, those made last kept; assistants until one changes."""

    def __init__(self, log: EventLog, views: Views, most_bytes: int = MOST_BYTES) -> None:
        self._log, self.views, self._most_bytes = log, views, most_bytes
        self._bytes = 0
        self._plans: OrderedDict[tuple[bytes, int], Planned] = OrderedDict()
        self._assistants: dict[UUID, Assistant | None] = {}

    def forget_assistants(self) -> None:
        """An assistant changed: what was made with the old ones is void."""
        self._assistants.clear()
        self._plans.clear()
        self._bytes = 0

    def of_block(self, dues: Sequence[Due]) -> dict[bytes, Planned]:
        """Plans from the read model, many at a time; what it does not show at that revision is left out."""
        wanted = {due.cron_id: due.revision for due in dues}
        known = {key[0]: self._plans[key] for key in wanted.items() if key in self._plans}
        missing = [cron_id for cron_id in wanted if cron_id not in known]
        if missing:
            marks = ",".join("?" * len(missing))
            rows = self.views.all(SQL["plans"].format(marks=marks), missing)
            for row in rows:
                if row["revision"] == wanted[row["cron_id"]]:
                    with suppress(*FAULTS):  # raised again by `of_stream`, for whoever asks for it alone
                        known[row["cron_id"]] = self._kept(row)
        return known

    def of_stream(self, due: Due) -> Planned | None:
        """The same from the log; None when the cron is deleted, or edited since."""
        if (known := self._plans.get((due.cron_id, due.revision))) is not None:
            return known
        cron = Aggregates(self._log).cron(UUID(bytes=due.cron_id))
        if cron is None or cron.revision != due.revision:
            return None
        row = {
            "cron_id": due.cron_id,
            "assistant_id": cron.assistant_id.bytes,
            "thread_id": cron.thread_id.bytes if cron.thread_id else None,
            "user_id": cron.user_id,
            "on_run_completed": cron.on_run_completed,
            "metadata": msgspec.json.encode(cron.metadata),
            "payload": msgspec.json.encode(cron.payload),
            "revision": cron.revision,
            "overlap": cron.overlap,
        }
        return self._kept(row)

    def thread_metadata(self, thread_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Metadata of these threads, those that are gone left out."""
        marks = ",".join("?" * len(thread_ids))
        query = SQL["thread_metadata"].format(marks=marks)
        rows = self.views.all(query, [thread_id.bytes for thread_id in thread_ids])
        return {UUID(bytes=row["thread_id"]): msgspec.json.decode(row["metadata"]) for row in rows}

    def _kept(self, row: dict[str, Any]) -> Planned:
        planned = self._made(row)
        self._plans[row["cron_id"], row["revision"]] = planned
        self._bytes += planned.size
        while self._bytes > self._most_bytes:
            self._bytes -= self._plans.popitem(last=False)[1].size
        return planned

    def _made(self, row: dict[str, Any]) -> Planned:
        thread_id = UUID(bytes=row["thread_id"]) if row["thread_id"] else None
        assistant = self._assistant(UUID(bytes=row["assistant_id"]))
        if assistant is None:
            return Planned(None, thread_id)
        plan = plan_of(
            self._spec(row["payload"]),
            assistant,
            row["user_id"],
            cron_id=UUID(bytes=row["cron_id"]),
            revision=row["revision"],
            cron_metadata=msgspec.json.decode(row["metadata"]),
            temporary=thread_id is None and row["on_run_completed"] != "keep",
            overlap=row["overlap"],
        )
        return Planned(plan, thread_id, self._lacking(assistant.graph_id))

    def _lacking(self, graph_id: str) -> str:
        """The graph's name if the project has it no longer: its default assistant says so."""
        known = self._assistant(default_assistant_id(graph_id))
        return graph_id if known is not None and known.missing else ""

    def _assistant(self, assistant_id: UUID) -> Assistant | None:
        if assistant_id not in self._assistants:
            self._assistants[assistant_id] = Aggregates(self._log).assistant_or_none(assistant_id)
        return self._assistants[assistant_id]

    def _spec(self, stored: str | bytes) -> CronPayload:
        data = unpack(_payload.decode(stored), self._log.blob)
        return msgspec.json.decode(data or b"{}", type=CronPayload)
