"""`cronledger crons`: of a data folder list, show, upcoming; of a running server everything."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from domain.schedule import dst_kind, local_time, next_after, parse, zone
from services.commandline import requests
from services.commandline.folder import CommandFailed, Folder, out, table
from services.commandline.server import add_options, is_asked
from services.kit.queries import named
from services.kit.settings import Settings

SQL = named(Path(__file__).with_name("queries.sql"))


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("crons", help="what is scheduled")
    parser.set_defaults(command=lambda _: parser.print_help())
    verbs = parser.add_subparsers(metavar="VERB")
    listing = verbs.add_parser("list", help="every cron, oldest first")
    listing.set_defaults(command=list_crons)
    showing = verbs.add_parser("show", help="one cron, what became of it and what is next")
    showing.add_argument("cron_id")
    showing.set_defaults(command=show)
    coming = verbs.add_parser("upcoming", help="the next instants of a cron")
    coming.add_argument("cron_id")
    coming.add_argument("--limit", type=int, default=10, help="how many, 10 by default")
    coming.set_defaults(command=upcoming)
    for verb in (listing, showing, coming):
        places = verb.add_mutually_exclusive_group()
        places.add_argument("--data", type=Path, dest="folder", help="the server's data folder, in its place")
        add_options(verb, places)
    requests.add(verbs)


def list_crons(args: argparse.Namespace) -> None:
    """Print every cron, a line each."""
    if is_asked(args):
        requests.list_crons(args)
        return
    rows = _folder(args).views().all(SQL["crons"])
    table(requests.HEAD, [_line(row) for row in rows])


def show(args: argparse.Namespace) -> None:
    """Print one cron: of a folder as JSON, of a server in words."""
    if is_asked(args):
        requests.show(args)
        return
    row = _cron(args)
    instants = {"end_at", "next_at", "created_at", "updated_at"}
    seconds = {"cursor", "since", "last_scheduled_for"}
    parsed = {"metadata", "payload"}
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name in instants:
            shown[name] = instant(value)
        elif name in seconds:
            shown[name] = instant(None if value is None else value * 1_000_000)
        elif name in parsed:
            shown[name] = msgspec.json.decode(value)
        else:
            shown[name] = str(UUID(bytes=value)) if isinstance(value, bytes) else value
    out(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


def upcoming(args: argparse.Namespace) -> None:
    """Print the next instants of a cron, whether it is enabled or not."""
    if is_asked(args):
        requests.upcoming(args)
        return
    row = _cron(args)
    schedule, place = parse(row["schedule"], seconds=True), zone(row["timezone"])
    epoch: int | None = int(datetime.now(UTC).timestamp())
    lines: list[tuple[str | None, str, str]] = []
    while len(lines) < args.limit:
        assert epoch is not None
        epoch = next_after(schedule, place, epoch)
        if epoch is None or (row["end_at"] is not None and epoch * 1_000_000 > row["end_at"]):
            break
        kind = dst_kind(schedule, place, epoch)
        lines.append((instant(epoch * 1_000_000), local_time(place, epoch).isoformat(), kind or ""))
    table(("scheduled for", "local", "clock change"), lines)


def instant(microseconds: int | None) -> str | None:
    """An instant as text."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()


def _line(row: dict[str, Any]) -> tuple[Any, ...]:
    thread = str(UUID(bytes=row["thread_id"])) if row["thread_id"] else "-"
    return (
        UUID(bytes=row["cron_id"]),
        thread,
        row["schedule"],
        row["timezone"] or "UTC",
        row["state"],
        instant(row["next_at"]) or "-",
        row["fired"],
        row["skipped"],
        row["missed"],
    )


def _folder(args: argparse.Namespace) -> Folder:
    if args.json or args.key:
        raise CommandFailed("--json and --key: only with --url, of a running server")
    return Folder(args.folder or Path(Settings.read().data))


def _cron(args: argparse.Namespace) -> dict[str, Any]:
    cron_id = requests.id_of(args.cron_id)
    row = _folder(args).views().one(SQL["cron"], (cron_id.bytes,))
    if row is None:
        raise CommandFailed(f"{args.cron_id}: no such cron")
    return row
