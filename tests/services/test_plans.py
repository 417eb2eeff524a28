"""Plans of firings: kept as long as they are few bytes."""

from typing import Any, cast
from uuid import UUID

import pytest

from domain.timeline import Due
from services.scheduler.plans import SPARE, Plans
from tests.services.schedulers import Bench


def due(cron_id: UUID) -> Due:
    return Due(cron_id.bytes, 0, "", "schedule", None, 1, 1)


@pytest.mark.parametrize(("letters", "reads"), [(10, 0), (20_000, 1), (40_000, 1)])
async def test_plans_are_kept_by_their_bytes(bench: Bench, letters: int, reads: int) -> None:
    dues = [due(await bench.cron("* * * * *", spec={"input": {"text": "x" * letters}})) for _ in range(5)]
    plans = Plans(bench.log, cast(Any, bench.edge_views), 5 * (SPARE + 2_000))
    assert len(plans.of_block(dues)) == 5
    before = bench.edge_views.calls["all"]
    assert len(plans.of_block(dues)) == 5
    assert bench.edge_views.calls["all"] - before == reads
    plans.forget_assistants()
    assert len(plans.of_block(dues)) == 5
