"""`cronledger replay`: build the read models anew from the ledger, or compare them with it."""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from contracts.rebuild import RebuildAsked, RebuildTold
from contracts.subjects import rebuild_subject
from services.commandline.folder import CommandFailed, Folder, instant, out
from services.kit.bus.embedded import NatsStartFailed
from services.kit.bus.external import endpoint_of
from services.kit.bus.nats import NatsBus
from services.kit.folder import DataFolder
from services.kit.settings import Settings
from services.projector.replay import as_of, rebuild, verify

ASK_S = 10.0
LOOK_S = 0.25
TELL_S = 1.0


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("replay", help="rebuild the read models from the ledger")
    parser.add_argument(
        "--verify", action="store_true", help="compare only, row by row; exit 1 when they differ"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this read model; may be repeated"
    )
    parser.add_argument(
        "--until",
        metavar="WHEN",
        type=_moment,
        help="a position or an instant: the system as it was; needs --into",
    )
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="build into a new file; what is shown stays as it is"
    )
    parser.add_argument("--data", type=Path, default=None, help="the server's data folder")
    parser.set_defaults(command=replay)


def _moment(text: str) -> int | datetime:
    return int(text) if text.isdecimal() else instant(text)


def replay(args: argparse.Namespace) -> None:
    """Rebuild beside the live ones and swap, or verify, or build the past into a file of its own."""
    folder = Folder(args.data)
    if args.verify:
        _verify(folder)
    elif args.into is not None:
        _into(folder, args.into, args.until)
    elif args.until is not None:
        raise CommandFailed("--until needs --into FILE: what a server shows is never taken back")
    else:
        _rebuild(folder, args.data, tuple(args.only or ()))


def _rebuild(folder: Folder, path: Path, names: tuple[str, ...]) -> None:
    """One place owns the read models: the server, if there is one on the folder, else whoever holds it.

    Those of a database its projector owns.
    """
    if isinstance(folder.place, str):
        try:
            position = asyncio.run(_asked(path, names))
        except ValueError as exc:
            raise CommandFailed(str(exc)) from None
        out(f"rebuilt {', '.join(names) or 'all read models'} up to position {position}")
        return
    data = DataFolder(path)
    try:
        if data.take():
            position = _alone(folder, names)
            data.settle()
        else:
            position = asyncio.run(_asked(path, names))
    except ValueError as exc:
        raise CommandFailed(str(exc)) from None
    finally:
        data.let_go()
    out(f"rebuilt {', '.join(names) or 'all read models'} up to position {position}")


def _alone(folder: Folder, names: tuple[str, ...]) -> int:
    log = folder.log()
    try:
        return _last(rebuild(log, folder.place, names), log.head())
    finally:
        log.close_readers()


async def _asked(path: Path, names: tuple[str, ...]) -> int:
    bus = NatsBus(endpoint_of(Settings.read(), path / "nats"), "cronledger-replay")
    try:
        await bus.start()
        told, tell = await _ask(bus, RebuildAsked(names=names)), _teller()
        while not told.ended:
            tell(told.position, told.head)
            await asyncio.sleep(LOOK_S)
            told = await _ask(bus, RebuildAsked(number=told.number))
    except (ConnectionError, TimeoutError, NatsStartFailed) as exc:
        raise CommandFailed(f"whoever makes the read models does not answer: {exc}") from None
    finally:
        await bus.stop()
    if told.failed:
        raise CommandFailed(told.failed)
    return told.position


async def _ask(bus: NatsBus, asked: RebuildAsked) -> RebuildTold:
    answer = await bus.request(rebuild_subject(), msgspec.json.encode(asked), ASK_S)
    return msgspec.json.decode(answer, type=RebuildTold)


def _into(folder: Folder, path: Path, until: int | datetime | None) -> None:
    if path.exists():
        raise CommandFailed(f"{path} is there already; give the name of a new file")
    log = folder.log()
    try:
        position = _last(as_of(log, path, until), log.head())
    finally:
        log.close_readers()
    out(f"built {path} as of position {position}")


def _last(positions: Iterator[int], head: int) -> int:
    """The last position; on the way, how far it is."""
    tell, last = _teller(), 0
    for last in positions:
        tell(last, head)
    return last


def _teller() -> Callable[[int, int], None]:
    """Says on standard error how far it is, once a second."""
    told_at = time.monotonic()

    def tell(position: int, head: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_S:
            told_at = time.monotonic()
            sys.stderr.write(f"{position:,} of {head:,}\n")

    return tell


def _verify(folder: Folder) -> None:
    log = folder.log()
    try:
        differences = verify(log, folder.place)
    finally:
        log.close_readers()
    for difference in differences[:50]:
        out(str(difference))
    if differences:
        raise CommandFailed(f"{len(differences)} rows differ from what the ledger says")
    out("the read models are what the ledger says, row by row")
