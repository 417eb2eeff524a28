"""`cronledger audit`: what happened, who did it and why, as a table or as JSON lines."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from contracts.events import BODIES
from contracts.ledger import Recorded
from services.commandline.folder import CommandFailed, Folder, instant, out
from services.kit.ids import parse_uuid
from services.kit.queries import named

SQL = named(Path(__file__).with_name("queries.sql"))
PAGE = 500
LAST = "\U0010ffff"  # sorts behind whatever goes on from a prefix
WHY = (
    "note",
    "reason",
    "error",
    "message",
    "status",
    "kind",
    "schedule",
    "timezone",
    "scheduled_for",
    "count",
    "until",
    "tzdata",
)
IDS = ("thread", "cron", "run", "stream")


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("audit", help="what happened, oldest first")
    for name in IDS:
        parser.add_argument(f"--{name}", metavar="ID", help=f"only events of this {name}")
    parser.add_argument("--type", help="only this topic, such as run.requested.v1, or a prefix such as run.")
    parser.add_argument("--actor", help="only what this actor did")
    parser.add_argument("--since", type=instant, help="from this instant on (ISO 8601; UTC if naive)")
    parser.add_argument("--until", type=instant, help="before this instant")
    parser.add_argument("--after", type=int, default=0, help="only positions after this one")
    parser.add_argument("--limit", type=int, default=0, help="how many at most; 0 = all")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument("--data", type=Path, default=None, help="the server's data folder")
    parser.set_defaults(command=audit)


def audit(args: argparse.Namespace) -> None:
    """Print the events that match."""
    folder = Folder(args.data)
    log, views = folder.log(), folder.views()
    where, params = conditions(args)
    query = SQL["audit"].format(tests=where)
    show = _json_line if args.json else _table_line
    left, after = args.limit or None, args.after
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        positions = [row["position"] for row in views.all(query, (*params, after, size))]
        for recorded in log.at_positions(positions):
            out(show(recorded))
        if len(positions) < size:
            return
        after = positions[-1]
        left = None if left is None else left - size


def conditions(args: argparse.Namespace) -> tuple[str, list[Any]]:
    """The filter as SQL over the audit read model, with its parameters. Raises CommandFailed."""
    clauses, params = ["true"], list[Any]()
    for name in IDS:
        if (text := getattr(args, name)) is not None:
            value = parse_uuid(text)
            if value is None:
                raise CommandFailed(f"--{name} {text}: not a UUID")
            clauses.append(f"{name}_id = ?")
            params.append(value.bytes)
    if args.type is not None:
        is_whole = args.type in BODIES
        # The plus: many events have such topics, and their index is not in the order of positions.
        clauses.append("topic = ?" if is_whole else "+topic >= ? AND +topic < ?")
        params += [args.type] if is_whole else [args.type, args.type + LAST]
    if args.actor is not None:
        clauses.append("actor = ?")
        params.append(args.actor)
    for name, comparison in (("since", ">="), ("until", "<")):
        if (moment := getattr(args, name)) is not None:
            clauses.append(f"+at {comparison} ?")
            params.append(int(moment.timestamp() * 1_000_000))
    return " AND ".join(clauses), params


def _json_line(recorded: Recorded) -> str:
    line = {
        "position": recorded.position,
        "type": recorded.topic,
        "stream": recorded.stream_id,
        "version": recorded.version,
        "at": recorded.meta.at.isoformat(),
        "actor": recorded.meta.actor,
        "cause": recorded.meta.cause,
        "corr": recorded.meta.corr,
        "data": recorded.body,
    }
    return msgspec.json.encode(line).decode()


def _said(recorded: Recorded) -> str:
    """What the event says, why first: the line is cut, and ids would fill it (`--json` has all of it)."""
    body = msgspec.json.decode(msgspec.json.encode(recorded.body))
    first = {name: body[name] for name in WHY if name in body}
    rest = {name: value for name, value in body.items() if name not in first and not name.endswith("_id")}
    return msgspec.json.encode(first | rest).decode()


def _table_line(recorded: Recorded) -> str:
    data = _said(recorded)
    shortened = data if len(data) <= 100 else data[:99] + "…"
    at = recorded.meta.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    where = f"{recorded.stream_id}/{recorded.version}"
    return (
        f"{recorded.position:>8}  {at}  {recorded.meta.actor:<10}  {recorded.topic:<28}  {where}  {shortened}"
    )
