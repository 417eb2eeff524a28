"""What a server keeps as a command sees it: read, never written."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.codec import EventCodec
from services.kit.eventlog.log import RecordedLog
from services.kit.eventlog.remote import RemoteLog
from services.kit.mendable import Mendable
from services.kit.settings import Settings
from services.kit.views import Views
from services.kit.views.sqlite import SqliteViews


class CommandFailed(Mendable):
    """A command can't do what was asked; the text is for the person who asked."""


async def _refuse(_: bytes) -> bytes:
    raise ConnectionError("this command only reads")


class Folder:
    """Ledger and read models: those of a data folder, or of the database that the settings name."""

    def __init__(self, path: Path) -> None:
        self._url = Settings.read().database_url
        self.ledger = path / "ledger.db"
        self.place: Path | str = self._url or path / "views.db"
        """Where the read models are."""
        if not self._url and not self.ledger.exists():
            raise CommandFailed(f"{path}: no ledger here; give the folder of the server with --data")

    def log(self) -> RecordedLog | RemoteLog:
        """The log, for reading."""
        if not self._url:
            return RemoteLog(self.ledger, EventCodec(), _refuse)
        # Imported here: whoever has no PostgreSQL does not wait for its driver.
        from services.kit.eventlog.postgres import LEDGER, PostgresLog
        from services.kit.postgres import check

        check(self._url, [LEDGER])
        return PostgresLog(self._url, EventCodec())

    def views(self) -> Views:
        """The read models. Raises CommandFailed when they were never built."""
        if isinstance(self.place, Path):
            if not self.place.exists():
                raise CommandFailed("no read models yet; start the server once, or run `cronledger replay`")
            return SqliteViews(self.place)
        from services.kit.postgres import check
        from services.kit.views.postgres import SCHEMA, PostgresViews

        check(self.place, [SCHEMA])
        return PostgresViews(self.place)


def instant(text: str) -> datetime:
    """An argument that is an instant. Raises ArgumentTypeError, whose text the parser tells beside the name."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        moment.timestamp()
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"'{text}' is no instant; write 2026-03-01 or 2026-03-01T09:00:00Z") from None
    return moment


def out(line: str) -> None:
    """One line to standard output."""
    sys.stdout.write(line + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows in columns as wide as they need; an empty list prints its head alone."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        out("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
