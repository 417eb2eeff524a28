"""Transactions of one commit, folded over the versions of the streams that they rest on."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from contracts.ledger import StoredTransaction
from services.kit.eventlog import WrongExpectedVersion
from services.kit.eventlog.recorder import Outcome


class Fold:
    """What a commit stores, and what becomes of each of its transactions.

    Each is all or nothing, a conflict fails its own alone, and later ones see what earlier ones of the batch did.
    """

    def __init__(self, txs: Sequence[StoredTransaction], versions: Mapping[UUID, int] | None = None) -> None:
        """Without versions each stream is taken to be where the first transaction about it expects it: `rests` says
        where, for whoever stores the batch to check.
        """
        self.rests: dict[UUID, int] = {}
        self._now = {} if versions is None else dict(versions)
        self._outcomes: list[Outcome] = []  # places within the batch
        self._rows: list[tuple[UUID, int, str, bytes]] = []
        self._blobs: dict[str, bytes] = {}
        for tx in txs:
            self._outcomes.append(self._add(tx))

    def _add(self, tx: StoredTransaction) -> Outcome:
        wanted = [(append.stream_id, append.expected_version) for append in tx.appends]
        wanted += [(expect.stream_id, expect.version) for expect in tx.expects]
        for stream, version in wanted:
            self.rests.setdefault(stream, self._now.setdefault(stream, version))
        for stream, version in wanted:
            if self._now[stream] != version:
                return WrongExpectedVersion(stream, version)
        for append in tx.appends:
            for version, (topic, state) in enumerate(append.events, start=append.expected_version + 1):
                self._rows.append((append.stream_id, version, topic, state))
            self._now[append.stream_id] += len(append.events)
        self._blobs |= {blob.sha256: blob.data for blob in tx.blobs}
        return len(self._rows)

    def arguments(self) -> tuple[list[Any], ...]:
        """Of ledger_append."""
        streams, versions, topics, states = (
            map(list, zip(*self._rows, strict=True)) if self._rows else ([], [], [], [])
        )
        rests, blobs = self.rests, self._blobs
        return (
            list(rests),
            list(rests.values()),
            streams,
            versions,
            topics,
            states,
            list(blobs),
            list(blobs.values()),
        )

    def placed(self, last: int) -> list[Outcome]:
        """The outcomes, when the last event of the batch has that position."""
        base = last - len(self._rows)
        return [outcome + base if isinstance(outcome, int) else outcome for outcome in self._outcomes]
