"""`cronledger replay`: build the read models anew from the ledger, or compare them with it."""

import argparse
from pathlib import Path
from typing import Any

from services.commandline.folder import CommandFailed, Folder, out
from services.projector.replay import rebuild, verify


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("replay", help="rebuild the read models from the ledger")
    parser.add_argument(
        "--verify", action="store_true", help="compare only, row by row; exit 1 when they differ"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this read model; may be repeated"
    )
    parser.add_argument("--data", type=Path, default=None, help="the server's data folder")
    parser.set_defaults(command=replay)


def replay(args: argparse.Namespace) -> None:
    """Rebuild beside the live ones and swap, or verify."""
    folder = Folder(args.data)
    if args.verify:
        _verify(folder)
        return
    position = rebuild(folder.log(), folder.views_path, args.only)
    out(f"rebuilt {', '.join(args.only or ['all read models'])} up to position {position}")


def _verify(folder: Folder) -> None:
    differences = verify(folder.log(), folder.views_path)
    for difference in differences[:50]:
        out(str(difference))
    if differences:
        raise CommandFailed(f"{len(differences)} rows differ from what the ledger says")
    out("the read models are what the ledger says, row by row")
