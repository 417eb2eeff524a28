"""The read models that exist."""

from collections.abc import Sequence

from projections import assistants, audit, backfills, crons, deliveries, occurrences, runs, threads
from projections.rows import Projection

ALL: Sequence[Projection] = (crons, occurrences, runs, threads, assistants, deliveries, backfills, audit)
