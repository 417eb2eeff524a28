"""`cronledger migrate`: make and upgrade the schemas of a PostgreSQL database."""

import argparse
from typing import Any

from services.commandline.folder import CommandFailed, out
from services.kit.settings import Settings


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("migrate", help="make and upgrade the schemas of CRONLEDGER_DATABASE_URL")
    parser.set_defaults(command=carry_out)


def carry_out(_: argparse.Namespace) -> None:
    """Do it; any number of processes may at once. Raises Mendable."""
    settings = Settings.read()
    if not settings.database_url:
        raise CommandFailed("CRONLEDGER_DATABASE_URL is not set; a data folder needs no migration")
    # Imported here: whoever has no PostgreSQL does not wait for its driver.
    from services.kit.postgres import address
    from services.schemas import upgrade

    upgrade(settings, out)
    out(f"the schemas of {address(settings.database_url)} are up to date")
