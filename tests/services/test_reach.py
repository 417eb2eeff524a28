"""How far the read models are: what fails is told, and well again when it is, though nobody asks meanwhile."""

import asyncio
from typing import Any

import pytest

from services.kit.postgres import connect
from services.kit.reach import Reach
from services.kit.settings import Settings
from services.kit.views import ViewsUnavailable
from services.kit.views.postgres import PostgresViews
from services.schemas import upgrade


class Silent:
    """A bus on which nobody says anything, and a store that is near."""

    is_near = True

    async def subscribe(self, *_: Any) -> Any:
        return self

    async def unsubscribe(self) -> None:
        pass


async def test_what_was_away_is_well_again_without_anybody_who_waits() -> None:
    is_away, looks = True, 0

    def look() -> int:
        nonlocal looks
        looks += 1
        if is_away:
            raise ViewsUnavailable("they are away")
        return 7

    reach = Reach(Silent(), Silent(), look)  # type: ignore[arg-type]
    [polling] = reach.parts
    await reach.start()
    assert not await reach.reached(7, 0.5)
    assert "away" in polling.failing
    is_away = False
    async with asyncio.timeout(30):
        while polling.failing:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await reach.reached(7, 0)
    looked = looks
    await asyncio.sleep(1)
    assert looks == looked  # nobody waits, and nothing is wrong
    await reach.stop()


def test_read_models_that_somebody_dropped_are_away(postgres_url: str) -> None:
    upgrade(Settings(database_url=postgres_url), lambda _: None)
    views = PostgresViews(postgres_url)
    assert views.position("crons") == 0
    with connect(postgres_url, "public") as connection:
        connection.execute("DROP SCHEMA views CASCADE")
    with pytest.raises(ViewsUnavailable, match="tracking"):
        views.position("crons")
    upgrade(Settings(database_url=postgres_url), lambda _: None)
    assert views.position("crons") == 0
    views.close()
