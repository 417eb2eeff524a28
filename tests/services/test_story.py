"""What became of a cron reads as a person would tell it, at the command line and in the ledger."""

import asyncio
import os
import re
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx

from contracts.events import CronRescheduled, OccurrencesMissed
from domain.identity import run_id_of
from services.gateway.app import build_app
from services.gateway.server import GatewayServer
from tests.services.gateways import gateway_parts
from tests.services.schedulers import START, Bench

REPOSITORY = Path(__file__).parents[2]


def occurrence(cron_id: UUID, hour: int) -> UUID:
    return run_id_of(cron_id, int(START.replace(hour=hour, microsecond=0).timestamp()))


async def said(*arguments: str, **variables: str) -> list[str]:
    """The lines that the command says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", *arguments,
        cwd=REPOSITORY, env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, wrong = await process.communicate()
    assert (process.returncode, wrong) == (0, b"")
    return told.decode().splitlines()


async def test_an_outage_a_pause_a_backfill_a_trigger_and_new_rules_of_a_zone(bench: Bench) -> None:
    # By those rules Vancouver was an hour behind what it is now.
    cron_id = await bench.former_cron("0 * * * *", "America/Vancouver", "2025b")
    await bench.schedule()
    await bench.until(lambda: bench.events(CronRescheduled))
    bench.clock.move(hours=1)
    await bench.until(partial(bench.has_fired, 1))
    await bench.halt()
    bench.clock.move(hours=4, minutes=10)
    await bench.schedule()
    await bench.until(partial(bench.has_fired, 2))
    await bench.projector.reached(bench.log.head())
    parts = gateway_parts(bench.log, bench.views, bench.projector, clock=bench.clock)
    server = GatewayServer(build_app(parts), "127.0.0.1", 0)
    await server.start()
    url, path = f"http://127.0.0.1:{server.port}", f"/runs/crons/{cron_id}"
    async with httpx.AsyncClient(base_url=url) as http:
        until = (bench.clock.now() + timedelta(hours=3)).isoformat()
        await http.post(f"{path}/pause", json={"note": "month's end", "until": until})
        bench.clock.move(hours=3, seconds=1)
        await bench.until(lambda: len(bench.events(OccurrencesMissed)) == 2)
        span = {"start": "2026-11-24T14:00:00Z", "end": "2026-11-24T16:00:00Z"}
        await http.post(f"{path}/backfill", json=span | {"note": "the board asked"})
        for n in (3, 4):
            await bench.until(partial(bench.has_fired, n))
            bench.clock.move(seconds=0.2)
        run = await http.post(f"{path}/trigger", json={"note": "by hand"})
        assert run.status_code == 200, run.text
        bench.clock.move(minutes=1)
        shown = await said("crons", "show", str(cron_id), "--url", url)
    await server.stop()
    audit = await said("audit", "--cron", str(cron_id), "--data", str(bench.folder))
    assert [re.sub(r"  +", "  ", line).rstrip() for line in shown[2:13]] == [
        "active, next 2026-11-24T21:00:00+00:00",
        "fired 5, skipped 0, missed 6",
        "",
        "last",
        "scheduled for  status  late  run",
        f"2026-11-24T20:10:01+00:00  fired  trigger, by hand  {run.json()['run_id']}",
        "2026-11-24T11:00:00-07:00  3 missed until 2026-11-24T13:00:00-07:00  paused",
        f"2026-11-24T10:00:00-07:00  fired  catch_up  600500 ms  {occurrence(cron_id, 17)}",
        f"2026-11-24T08:00:00-07:00  fired  backfill, the board asked  {occurrence(cron_id, 15)}",
        f"2026-11-24T07:00:00-07:00  fired  backfill, the board asked  {occurrence(cron_id, 14)}",
        "2026-11-24T07:00:00-07:00  3 missed until 2026-11-24T09:00:00-07:00  coalesced",
    ]
    told = [re.split(r"  +", line.strip())[2:] for line in audit]
    assert [(who, what.removesuffix(".v1")) for who, what, *_ in told] == [
        ("test", "cron.created"),
        ("scheduler", "cron.rescheduled"),
        ("scheduler", "run.requested"),
        ("scheduler", "cron.occurrences_missed"),
        ("scheduler", "run.requested"),
        ("anonymous", "cron.paused"),
        ("scheduler", "cron.resumed"),
        ("scheduler", "cron.occurrences_missed"),
        ("anonymous", "backfill.requested"),
        ("scheduler", "run.requested"),
        ("scheduler", "run.requested"),
        ("scheduler", "backfill.finished"),
        ("anonymous", "run.requested"),
    ]
    why = [line[-1] for line in told]
    assert why[1].startswith('{"tzdata":"2026f"')
    assert why[3].startswith('{"reason":"coalesced","count":3')
    assert why[5].startswith("""{"note":"month's end","until":"2026-11-24T20:10:00.5""")
    assert why[7].startswith('{"reason":"paused","count":3')
    assert why[12].startswith('{"note":"by hand","kind":"trigger"')
