"""The command line: `cronledger up`, `crons`, `audit`, `replay`."""

import argparse
import sqlite3
import sys
from pathlib import Path

from services.commandline import audit, crons, replay
from services.commandline.folder import CommandFailed
from services.kit.process import ENDED, PartEnded
from services.kit.project import ProjectError
from services.kit.settings import Settings, SettingsError
from services.up import StartFailed, serve


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the process's exit code: 0, 1 = refused or not started, ENDED, `process.HUNG`."""
    args = _parser().parse_args(arguments)
    try:
        if getattr(args, "data", "") is None:
            args.data = Path(Settings.read().data)
        args.command(args)
    except (CommandFailed, ProjectError, SettingsError, StartFailed, sqlite3.Error) as exc:
        sys.stderr.write(f"cronledger: {exc}\n")
        return 1
    except PartEnded as exc:
        sys.stderr.write(f"cronledger: {exc}\n")
        return ENDED
    except BrokenPipeError:
        # Somebody closed our output (`| head`): nothing is wrong. Keep the interpreter's last flush quiet.
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cronledger", description="Scheduled LangGraph agents, with a ledger."
    )
    parser.set_defaults(command=lambda _: parser.print_help())
    commands = parser.add_subparsers(metavar="COMMAND")
    up = commands.add_parser("up", help="run the whole server in this folder")
    up.add_argument(
        "--config", type=Path, help="langgraph.json or aegra.json; found in this folder by default"
    )
    up.add_argument(
        "--data", type=Path, default=None, help="where everything is kept; .cronledger by default"
    )
    up.add_argument("--host", help="address to listen on; 127.0.0.1 by default")
    up.add_argument("--port", type=int, help="port to listen on; 2026 by default, 0 = any free one")
    up.set_defaults(command=serve)
    for command in (crons, audit, replay):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
