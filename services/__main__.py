"""The command line: `cronledger up`, the services, `crons`, `deliveries`, `audit`, `replay`, `health`."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from services.kit.process import command
from services.kit.settings import Settings

SERVICES = {
    "up": "run the whole server in this folder",
    "gateway": "answer HTTP, beside a server",
    "scheduler": "stand by to fire, beside a server",
    "relay": "bring events and work to NATS, beside a server",
    "projector": "make the read models of a PostgreSQL database",
    "worker": "run graphs, beside a server",
    "sender": "stand by to send webhooks, beside a server",
}
COMMANDS = ("crons", "deliveries", "audit", "migrate", "replay", "health")
"""Each a module of `services.commandline`."""
WITH_PROJECT = ("up", "gateway", "worker", "sender")
LISTENING = ("up", "gateway")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code: that of `process.command`, or `process.HUNG`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser(arguments).parse_args(arguments)
    return command(partial(_carried_out, args))


def _carried_out(args: argparse.Namespace) -> None:
    if getattr(args, "data", "") is None:
        args.data = Path(Settings.read().data)
    args.command(args)


def _serve(args: argparse.Namespace) -> None:
    # Imported here: the server is a hundred times what a command is, and a person waits for each command.
    from services.serve import serve

    serve(args)


def _needed(first: Sequence[str]) -> Sequence[str]:
    """The commands to be known: that one, none for a service, all of them for whoever errs or asks for help.

    A command loads what it needs, and a health check is made every few seconds.
    """
    if {*first} & {*SERVICES}:
        return ()
    return first if {*first} & {*COMMANDS} else COMMANDS


def _parser(asked: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cronledger", description="Scheduled LangGraph agents, with a ledger."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('cronledger')}")
    parser.set_defaults(command=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")
    for service, help_ in SERVICES.items():
        parser_of = commands.add_parser(service, help=help_)
        if service in WITH_PROJECT:
            told = "langgraph.json or aegra.json; found in this folder by default"
            parser_of.add_argument("--config", type=Path, help=told)
        told = "where everything is kept; .cronledger by default"
        parser_of.add_argument("--data", type=Path, default=None, help=told)
        if service in LISTENING:
            parser_of.add_argument("--host", help="address to listen on; 127.0.0.1 by default")
            told = "port to listen on; 2026 by default, 0 = any free one"
            parser_of.add_argument("--port", type=int, help=told)
        parser_of.set_defaults(command=_serve, service=service)
    for name in _needed(asked[:1]):
        import_module(f"services.commandline.{name}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
