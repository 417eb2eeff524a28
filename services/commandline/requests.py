"""`cronledger crons` against a running server: create, pause, resume, trigger, backfill, delete, list, show, upcoming."""

import argparse
from collections.abc import Iterator
from datetime import datetime
from time import sleep
from typing import Any, get_args
from uuid import UUID

import msgspec

from contracts.answers.backfills import BackfillAnswer, BackfillBegun
from contracts.answers.crons import (
    Coming,
    CreationLedger,
    CronAnswer,
    CronLedger,
    CronTold,
    CronWithLedger,
    OccurrenceAnswer,
)
from contracts.answers.runs import RunAnswer
from contracts.events import BackfillInclude, CatchUp, Overlap
from services.commandline.folder import CommandFailed, instant, out, table
from services.commandline.server import Server, add_options
from services.kit.ids import parse_uuid

PAGE = 500
LOOK_S = 0.5
"""Between two looks at how far a backfill has come."""
PLAIN = (
    "schedule",
    "timezone",
    "input",
    "metadata",
    "note",
    "webhook",
    "overlap",
    "catch_up",
    "jitter_seconds",
    "max_runs",
    "pause_after_failures",
)
"""Options of a creation that go into its body as they are."""
HEAD = ("cron", "thread", "schedule", "timezone", "state", "next", "fired", "skipped", "missed")


class CronMade(CronAnswer, frozen=True, kw_only=True):
    """What the answer to a creation has in any case."""

    ledger: CreationLedger
    run_id: UUID | None = None


def add(verbs: Any) -> None:
    """Add the verbs that only a server can carry out."""
    creating = verbs.add_parser("create", help="schedule runs")
    creating.add_argument("--assistant", required=True, metavar="ID", help="an assistant, or a graph's name")
    creating.add_argument("--schedule", required=True, help="such as '0 9 * * mon-fri'")
    creating.add_argument("--thread", metavar="ID", help="all runs on this thread; one each by default")
    creating.add_argument("--timezone", help="IANA name; UTC by default")
    creating.add_argument("--input", type=json_object, metavar="JSON", help="what each run is given")
    creating.add_argument("--metadata", type=json_object, metavar="JSON")
    creating.add_argument("--end-time", type=instant, help="nothing fires after it (ISO 8601)")
    creating.add_argument("--start-time", type=instant, help="nothing fires before it (ISO 8601)")
    creating.add_argument("--catch-up", choices=get_args(CatchUp), help="what fires late after downtime")
    creating.add_argument("--jitter-seconds", type=int, help="each fires up to so much after it is due")
    creating.add_argument("--max-runs", type=int, help="so many runs, and then no more")
    creating.add_argument("--pause-after-failures", type=int, help="it pauses itself after so many in a row")
    creating.add_argument("--note", help="why it is as it is")
    creating.add_argument(
        "--overlap", choices=get_args(Overlap), help="what it does while an earlier run is not over"
    )
    creating.add_argument("--webhook", metavar="URL", help="told of the end of each run")
    creating.add_argument("--disabled", action="store_true", help="paused from the beginning")
    creating.set_defaults(command=create)
    pausing = _of_one(verbs, "pause", "let nothing of a cron fire", pause)
    resuming = _of_one(verbs, "resume", "let a paused cron fire again", resume)
    triggering = _of_one(verbs, "trigger", "run a cron now", trigger)
    deleting = _of_one(verbs, "delete", "end a cron; what it has begun goes on", delete)
    pausing.add_argument("--until", type=instant, help="it is resumed then by itself (ISO 8601)")
    resuming.add_argument(
        "--catch-up", choices=get_args(CatchUp), help="what fires late of the pause; skip by default"
    )
    for verb in (pausing, resuming, triggering):
        verb.add_argument("--note", help="why, for the ledger")
    triggering.add_argument("--input", type=json_object, metavar="JSON", help="what this one run is given")
    triggering.add_argument(
        "--key-idempotency", metavar="KEY", help="the same key within a day gives the same run"
    )
    triggering.add_argument("--force", action="store_true", help="it waits where its overlap would refuse it")
    filling = _of_one(verbs, "backfill", "run what a cron has missed", backfill)
    filling.add_argument("--start", type=instant, required=True, help="from this instant on (ISO 8601)")
    filling.add_argument("--end", type=instant, required=True, help="before this instant")
    filling.add_argument("--include", choices=get_args(BackfillInclude), help="unfired by default")
    filling.add_argument("--overlap", choices=get_args(Overlap), help="in place of the cron's own")
    filling.add_argument("--limit", type=int, metavar="N", help="the first so many")
    filling.add_argument("--note", help="why, for the ledger")
    filling.add_argument("--dry-run", action="store_true", help="only say what would be run")
    filling.add_argument("--no-wait", action="store_true", help="do not wait until it is over")
    cancelling = _of_one(verbs, "cancel-backfill", "let no more of a backfill begin", cancel_backfill)
    cancelling.add_argument("backfill_id")
    for verb in (creating, pausing, resuming, triggering, filling, cancelling, deleting):
        add_options(verb)


def json_object(text: str) -> dict[str, Any]:
    """An argument that is a JSON object. Raises ArgumentTypeError."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no JSON object") from None


# --- verbs --------------------------------------------------------------------------------------------


def create(args: argparse.Namespace) -> None:
    """Create a cron, and say what it will do."""
    body = {name: value for name in PLAIN if (value := getattr(args, name)) is not None}
    body |= {"assistant_id": args.assistant}
    for name in ("start_time", "end_time"):
        if (when := getattr(args, name)) is not None:
            body[name] = when.isoformat()
    if args.disabled:
        body["enabled"] = False
    place = "" if args.thread is None else f"/threads/{id_of(args.thread)}"
    server = Server(args)
    content = server.ask("POST", f"{place}/runs/crons", body=body)
    if args.json:
        server.print_json(content)
        return
    made = server.decoded(content, CronMade)
    out(f"{made.cron_id}: {made.ledger.description}")
    out("paused" if not made.enabled else f"next {made.next_run_date or 'never'}")
    if made.run_id is not None:
        out(f"its first run is {made.run_id}")
    for warning in made.ledger.warnings:
        out(f"note: {warning}")


def pause(args: argparse.Namespace) -> None:
    """Pause a cron, and say how it is now."""
    _changed(args, "pause", {} if args.until is None else {"until": args.until.isoformat()})


def resume(args: argparse.Namespace) -> None:
    """Resume a cron, and say how it is now."""
    _changed(args, "resume", {} if args.catch_up is None else {"catch_up": args.catch_up})


def trigger(args: argparse.Namespace) -> None:
    """Run a cron now, and say what the run is called."""
    server = Server(args)
    body = {name: value for name in ("note", "input") if (value := getattr(args, name)) is not None}
    headers = {}
    if args.key_idempotency is not None:
        if not (args.key_idempotency.isascii() and args.key_idempotency.isprintable()):
            raise CommandFailed("--key-idempotency: must be printable ASCII")
        headers["Idempotency-Key"] = args.key_idempotency
    path, force = f"/runs/crons/{id_of(args.cron_id)}/trigger", {"force": "true"} if args.force else {}
    content = server.ask("POST", path, body=body, params=force, headers=headers)
    if args.json:
        server.print_json(content)
        return
    run = server.decoded(content, RunAnswer)
    out(f"run {run.run_id} on thread {run.thread_id}: {run.status}")


def backfill(args: argparse.Namespace) -> None:
    """Run what a cron has missed, and tell how far it has come until it is over."""
    server, path = Server(args), f"/runs/crons/{id_of(args.cron_id)}"
    body: dict[str, Any] = {"start": args.start.isoformat(), "end": args.end.isoformat()}
    names = ("include", "overlap", "limit", "note")
    body |= {name: value for name in names if (value := getattr(args, name)) is not None}
    content = server.ask("POST", f"{path}/backfill", body=body | {"dry_run": args.dry_run})
    begun = server.decoded(content, BackfillBegun)
    if not args.json:
        span = f", {begun.first} to {begun.last}" if begun.planned else ""
        out(f"{begun.planned} to run{span}; {begun.already_fired} have had a run")
    if begun.backfill_id is None or args.no_wait:
        if args.json:
            server.print_json(content)
        elif begun.backfill_id is not None:
            out(f"backfill {begun.backfill_id}")
        return
    _waited(server, f"{path}/backfills/{begun.backfill_id}", quietly=args.json)


def cancel_backfill(args: argparse.Namespace) -> None:
    """Cancel a backfill, and say how far it has come."""
    server, backfill_id = Server(args), id_of(args.backfill_id)
    content = server.ask("POST", f"/runs/crons/{id_of(args.cron_id)}/backfills/{backfill_id}/cancel")
    if args.json:
        server.print_json(content)
        return
    out(_progress(server.decoded(content, BackfillAnswer)))


def delete(args: argparse.Namespace) -> None:
    """Delete a cron."""
    cron_id = id_of(args.cron_id)
    Server(args).ask("DELETE", f"/runs/crons/{cron_id}")
    out("null" if args.json else f"{cron_id}: deleted")


def list_crons(args: argparse.Namespace) -> None:
    """Every cron, oldest first, a line each."""
    server, found = Server(args), list[Any]()
    while True:
        body = {"limit": PAGE, "offset": len(found), "sort_by": "created_at", "sort_order": "asc"}
        page = server.decoded(server.ask("POST", "/runs/crons/search", body=body), list[msgspec.Raw])
        found += page
        if len(page) < PAGE:
            break
    if args.json:
        server.print_json(msgspec.json.encode(found))
        return
    table(HEAD, [_line(server.decoded(bytes(one), CronWithLedger)) for one in found])


def show(args: argparse.Namespace) -> None:
    """One cron, as one would tell it."""
    server = Server(args)
    content = server.ask("GET", f"/runs/crons/{id_of(args.cron_id)}")
    if args.json:
        server.print_json(content)
        return
    cron = server.decoded(content, CronTold)
    ledger = cron.ledger
    out(f"{ledger.description} ({cron.schedule})")
    where = "each run on a thread of its own" if cron.thread_id is None else f"thread {cron.thread_id}"
    out(f"cron {cron.cron_id}, {where}")
    out(_state(cron))
    out(f"fired {ledger.fired}, skipped {ledger.skipped}, missed {ledger.missed}")
    for line in _limits(ledger):
        out(line)
    for warning in ledger.warnings:
        out(f"note: {warning}")
    if ledger.recent:
        out("\nlast")
        table(("scheduled for", "status", "", "late", "run"), [_became(one) for one in ledger.recent])
    if ledger.upcoming:
        out("\nnext")
        _coming(ledger.upcoming)


def upcoming(args: argparse.Namespace) -> None:
    """The next instants of a cron, whether it is enabled or not."""
    server = Server(args)
    params: dict[str, str | int] = {"limit": args.limit, "ignore_state": "true"}
    content = server.ask("GET", f"/runs/crons/{id_of(args.cron_id)}/upcoming", params=params)
    if args.json:
        server.print_json(content)
        return
    _coming(server.decoded(content, list[Coming]))


def id_of(text: str) -> UUID:
    """An id. Raises CommandFailed."""
    value = parse_uuid(text)
    if value is None:
        raise CommandFailed(f"{text}: not a UUID")
    return value


# --- words --------------------------------------------------------------------------------------------


def _of_one(verbs: Any, name: str, words: str, command: Any) -> Any:
    verb = verbs.add_parser(name, help=words)
    verb.add_argument("cron_id")
    verb.set_defaults(command=command)
    return verb


def _changed(args: argparse.Namespace, verb: str, body: dict[str, Any]) -> None:
    server, cron_id = Server(args), id_of(args.cron_id)
    if args.note is not None:
        body["note"] = args.note
    content = server.ask("POST", f"/runs/crons/{cron_id}/{verb}", body=body)
    if args.json:
        server.print_json(content)
        return
    out(f"{cron_id}: {_state(server.decoded(content, CronWithLedger))}")


def _state(cron: CronWithLedger) -> str:
    """`paused until 2026-...: too expensive`, `active, next 2026-...`."""
    ledger = cron.ledger
    coming = f", next {cron.next_run_date}" if ledger.state == "active" and cron.next_run_date else ""
    if ledger.paused_until is not None:
        coming = f" until {ledger.paused_until}"
    why = "; ".join(text for text in (ledger.reason, ledger.note) if text)
    return f"{ledger.state}{coming}{f': {why}' if why else ''}"


def _waited(server: Server, path: str, *, quietly: bool) -> None:
    """Tell of the progress of a backfill, each time it has come further, until it is over."""
    told = ""
    while True:
        content = server.ask("GET", path)
        found = server.decoded(content, BackfillAnswer)
        if not quietly and (line := _progress(found)) != told:
            out(told := line)
        if found.state != "running":
            break
        sleep(LOOK_S)
    if quietly:
        server.print_json(content)


def _progress(found: BackfillAnswer) -> str:
    done = found.fired + found.skipped
    return f"backfill {found.backfill_id}: {done} of {found.planned}, {found.skipped} skipped, {found.state}"


def _limits(ledger: CronLedger) -> Iterator[str]:
    if ledger.overlap != "allow":
        yield f"while an earlier run is not over: {ledger.overlap}"
    if ledger.start_time is not None:
        yield f"from {ledger.start_time} on"
    if ledger.jitter_seconds:
        yield f"each fires up to {ledger.jitter_seconds} s after it is due"
    if ledger.max_runs is not None:
        yield f"{ledger.runs} of {ledger.max_runs} runs"
    if ledger.pause_after_failures is not None:
        yield f"it pauses itself after {ledger.pause_after_failures} failures in a row; {ledger.failures} now"


def _line(cron: CronWithLedger) -> tuple[Any, ...]:
    ledger = cron.ledger
    counts = (ledger.fired, ledger.skipped, ledger.missed)
    zone, coming = cron.timezone or "UTC", cron.next_run_date or "-"
    return (cron.cron_id, cron.thread_id or "-", cron.schedule, zone, ledger.state, coming, *counts)


def _became(one: OccurrenceAnswer) -> tuple[Any, ...]:
    status = one.status if one.count == 1 else f"{one.count} {one.status} until {_last(one)}"
    kind = None if one.kind == "schedule" else one.kind
    why = ", ".join(text for text in (kind, one.reason) if text)
    late = "" if one.lateness_ms is None else f"{one.lateness_ms:.0f} ms"
    return (one.local or one.scheduled_for, status, why, late, one.run_id or "")


def _last(one: OccurrenceAnswer) -> str:
    """The end of a stretch, on the clock on which its begin is shown."""
    if one.until is None or one.local is None:
        return str(one.until)
    place = datetime.fromisoformat(one.local).tzinfo
    return datetime.fromisoformat(one.until).astimezone(place).isoformat()


def _coming(coming: list[Coming]) -> None:
    head: tuple[str, ...] = ("scheduled for", "local", "clock change")
    lines: list[tuple[str, ...]] = [(c.scheduled_for, c.local, c.dst or "") for c in coming]
    if any(c.fires_at != c.scheduled_for for c in coming):
        head = (*head, "fires at")
        lines = [(*line, c.fires_at) for line, c in zip(lines, coming, strict=True)]
    table(head, lines)
