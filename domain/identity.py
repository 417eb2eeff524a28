"""Ids that follow from what they stand for: two schedulers that mean the same occurrence name it alike."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

CLEAR = ~((0xF << 76) | (0x3 << 62))
DAY_S = 86_400
VERSION_8 = (8 << 76) | (2 << 62)


def run_id_of(cron_id: UUID, scheduled_for: int) -> UUID:
    """The run of an occurrence (`scheduled_for` in seconds, UTC): a time-ordered UUIDv8."""
    return _derived(f"{cron_id}/{_text(scheduled_for)}", scheduled_for)


def thread_id_of(cron_id: UUID, scheduled_for: int) -> UUID:
    """The thread of a stateless cron's occurrence."""
    return _derived(f"{cron_id}/{_text(scheduled_for)}/thread", scheduled_for)


def backfill_id_of(cron_id: UUID, backfill_id: UUID, scheduled_for: int) -> UUID:
    """The run that a backfill has of an occurrence whether or not it has had one."""
    return _derived(f"{cron_id}/backfill/{backfill_id}/{_text(scheduled_for)}", scheduled_for)


def thread_id_beside(run_id: UUID) -> UUID:
    """The thread of such a run, if it has one of its own. It keeps the run's time prefix."""
    digest = hashlib.blake2b(run_id.bytes + b"/thread", digest_size=10).digest()
    return UUID(bytes=run_id.bytes[:6] + digest)


def trigger_id_of(cron_id: UUID, key: str, day: int) -> UUID:
    """The run of a cron that was asked for by that key on that day (of the epoch, UTC)."""
    return _derived(f"{cron_id}/trigger/{day}/{key}", day * DAY_S)


def delivery_id_of(run_id: UUID) -> UUID:
    """The delivery that tells of a run's end. It keeps the run's time prefix, so that the index stays local."""
    digest = hashlib.blake2b(run_id.bytes + b"/webhook", digest_size=10).digest()
    return UUID(bytes=run_id.bytes[:6] + digest)


def _text(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _derived(name: str, epoch: int) -> UUID:
    digest = hashlib.blake2b(name.encode(), digest_size=10).digest()
    value = ((epoch * 1000) & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(digest, "big")
    return UUID(int=value & CLEAR | VERSION_8)
