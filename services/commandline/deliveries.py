"""`cronledger deliveries`: list, show, redeliver."""

import argparse
from pathlib import Path
from typing import Any
from uuid import UUID

from contracts.answers.deliveries import DeliveryAnswer
from domain.delivery import delivery_of
from services.commandline.crons import instant
from services.commandline.folder import CommandFailed, Folder, out, table
from services.commandline.requests import id_of
from services.commandline.server import Server, add_options
from services.kit.queries import named

SQL = named(Path(__file__).with_name("queries.sql"))


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("deliveries", help="webhooks that were sent, or were not")
    parser.set_defaults(command=lambda _: parser.print_help())
    verbs = parser.add_subparsers(metavar="VERB")
    listing = verbs.add_parser("list", help="the newest ones")
    listing.add_argument("--state", choices=("pending", "delivered", "abandoned"), help="only those")
    listing.add_argument("--limit", type=int, default=100, help="how many, 100 by default")
    listing.set_defaults(command=list_deliveries)
    showing = verbs.add_parser("show", help="one of them with each of its attempts")
    showing.add_argument("delivery_id")
    showing.set_defaults(command=show)
    for verb in (listing, showing):
        verb.add_argument("--data", type=Path, default=None, help="the server's data folder")
    again = verbs.add_parser("redeliver", help="send one once more, by the running server")
    again.add_argument("delivery_id")
    add_options(again)
    again.set_defaults(command=redeliver)


def list_deliveries(args: argparse.Namespace) -> None:
    """Print the newest ones, a line each."""
    name = "deliveries" if args.state is None else "deliveries_in_state"
    which = () if args.state is None else (args.state,)
    rows = Folder(args.data).views().all(SQL[name], (*which, args.limit))
    head = ("delivery", "run", "state", "attempts", "requested", "next attempt", "status", "error", "url")
    table(head, [_line(row) for row in rows])


def show(args: argparse.Namespace) -> None:
    """Print one with what became of each attempt."""
    delivery_id = id_of(args.delivery_id)
    events = Folder(args.data).log().stream(delivery_id)
    delivery = delivery_of(delivery_id, events)
    if delivery is None:
        raise CommandFailed(f"{args.delivery_id}: no such delivery")
    request = delivery.request
    out(f"{delivery_id}  {delivery.state}, {delivery.attempts} attempts")
    out(f"the end of run {request.run_id} to {request.url}")
    rows = []
    for recorded in events:
        body = recorded.body
        status, why = getattr(body, "status", None), getattr(body, "why", "")
        rows.append((recorded.meta.at.isoformat(), recorded.topic.split(".")[1], status or "", why))
    table(("at", "what", "status", "why"), rows)


def redeliver(args: argparse.Namespace) -> None:
    """Let the running server send it once more."""
    server = Server(args)
    content = server.ask("POST", f"/deliveries/{id_of(args.delivery_id)}/redeliver")
    if args.json:
        server.print_json(content)
        return
    told = server.decoded(content, DeliveryAnswer)
    out(f"{told.delivery_id}: {told.state}, to {told.url}")


def _line(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        UUID(bytes=row["delivery_id"]),
        UUID(bytes=row["run_id"]),
        row["state"],
        row["attempts"],
        instant(row["requested_at"]),
        instant(row["next_at"]) or "-",
        row["status"] or "-",
        row["why"] or "-",
        row["url"],
    )
