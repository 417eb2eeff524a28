"""A running server as a command sees it: asked over HTTP, with every failure told in one sentence."""

import argparse
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from services.commandline.folder import CommandFailed, out

DEFAULT_URL = "http://127.0.0.1:2026"
PATIENCE_S = 60.0
LONGEST_S = 3600
T = TypeVar("T")


class Server:
    """Where to ask, and with which key."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.url = str(args.url or os.environ.get("CRONLEDGER_URL") or DEFAULT_URL).rstrip("/")
        self._patience_s = float(args.timeout)
        self.key = str(args.key or os.environ.get("CRONLEDGER_KEY") or "")
        if not (self.key.isascii() and self.key.isprintable()):
            raise CommandFailed("--key: must be printable ASCII")

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of its answer. Raises CommandFailed with what the server says of a refusal."""
        said = {**(headers or {}), **({"x-api-key": self.key} if self.key else {})}
        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = httpx.request(
                method,
                self.url + path,
                content=content,
                params=params,
                headers=said,
                timeout=self._patience_s,
            )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise CommandFailed(f"{self.url}: no address of a server; write {DEFAULT_URL}") from None
        except httpx.TimeoutException:
            raise CommandFailed(
                f"{self.url}: no answer within {self._patience_s:g} s; it may have happened all the same"
            ) from None
        except httpx.HTTPError as exc:
            why = str(exc) or type(exc).__name__
            raise CommandFailed(f"{self.url}: can't be asked ({why}); is the server running there?") from None
        if not answer.is_success:
            raise CommandFailed(self._refusal(answer))
        return answer.content

    def decoded(self, content: bytes, kind: type[T]) -> T:
        """What it has answered. Raises CommandFailed for what no server of ours says."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CommandFailed(f"{self.url}: that is no answer of a Cronledger server") from None

    def print_json(self, content: bytes) -> None:
        """What it has answered, indented. Raises CommandFailed."""
        self.decoded(content, msgspec.Raw)
        out(msgspec.json.format(content, indent=2).decode())

    def _refusal(self, answer: httpx.Response) -> str:
        try:
            detail = msgspec.json.decode(answer.content)["detail"]
        except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, RecursionError):
            return f"{self.url}: answered {answer.status_code}; is it a Cronledger server?"
        if answer.is_server_error:
            return f"{self.url}: answered {answer.status_code}: {detail}"
        return str(detail)


def add_options(parser: Any, places: Any = None) -> None:
    """Say which server is asked, and how it answers; `--url` among the places that exclude each other."""
    (places or parser).add_argument("--url", help=f"the server; CRONLEDGER_URL, or {DEFAULT_URL}, by default")
    parser.add_argument("--key", help="sent as x-api-key; CRONLEDGER_KEY by default")
    parser.add_argument(
        "--timeout", type=_seconds, default=PATIENCE_S, help=f"seconds to wait; {PATIENCE_S:g} by default"
    )
    parser.add_argument("--json", action="store_true", help="what the server answers, instead of words")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r}: must be seconds, {LONGEST_S} at most")
    return value


def is_asked(args: argparse.Namespace) -> bool:
    """Whether a server is meant, and no folder."""
    return bool(args.url or (args.folder is None and os.environ.get("CRONLEDGER_URL")))
