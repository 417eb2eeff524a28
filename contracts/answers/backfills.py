"""Backfills, as clients see them."""

from typing import Literal
from uuid import UUID

import msgspec

from contracts.events import BackfillInclude, Overlap


class BackfillAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A backfill and how far it has come: `left` of the `planned` occurrences have not had their turn.

    Of a finished one, `planned` may be more than `fired` and `skipped`: the others had a run from somebody else.
    """

    backfill_id: UUID
    cron_id: UUID
    state: Literal["running", "finished", "cancelled"]
    include: BackfillInclude
    overlap: Overlap | None  # null: as the cron has it
    start: str
    end: str
    planned: int
    already_fired: int
    fired: int
    skipped: int
    left: int
    revision: int  # of the cron, when it was asked for
    requested_by: str
    requested_at: str
    ended_at: str | None
    note: str | None
    reason: Literal["request", "cron_deleted"] | None  # why it was cancelled


class BackfillBegun(msgspec.Struct, frozen=True, kw_only=True):
    """What a backfill comes to; `backfill_id` is null when nothing is to be run, or it was only asked what would be."""

    backfill_id: UUID | None
    planned: int
    already_fired: int
    first: str | None  # of those that are planned
    last: str | None
