"""`cronledger health`: ask a process of this machine whether it is well, as health checks of containers do."""

import argparse
import sys
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import msgspec

from contracts.answers.system import Health
from services.kit.mendable import Mendable
from services.kit.settings import Settings, local_url

PATIENCE_S = 5.0


class NotWell(Mendable):
    """A process is not as it should be; the text says what is not."""


def add(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "health", help="ask the process at CRONLEDGER_HEALTH_PORT whether it is well"
    )
    parser.add_argument("--live", action="store_true", help="only whether it answers")
    parser.set_defaults(command=carry_out)


def carry_out(args: argparse.Namespace) -> None:
    """Say what is not well. Raises NotWell when anything is not, or when there is no answer."""
    settings = Settings.read()
    if not settings.health_port:
        raise NotWell("CRONLEDGER_HEALTH_PORT is not set; a process tells of itself where it is")
    status, body = _asked(local_url(settings.host, settings.health_port), "/live" if args.live else "/ready")
    if status == 200:
        sys.stdout.write("alive\n" if args.live else "healthy\n")
        return
    try:
        told = msgspec.json.decode(body, type=Health).services
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NotWell(f"answered {status}; is it a Cronledger process?") from None
    raise NotWell("; ".join(f"{name}: {why}" for name, why in told.items() if why != "ok"))


def _asked(url: str, path: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException) as exc:
        raise NotWell(f"{url}: no answer ({exc or type(exc).__name__})") from None
    finally:
        connection.close()
