"""Logs: an event and its fields, through the standard library's logging."""

import json
import logging
from typing import Any


class Log:
    """`log.warning("run.fenced", run_id=run_id, attempt=2)` says `run.fenced run_id=... attempt=2`.

    Event and fields are on the record too (`record.event`, `record.fields`), for whoever writes them otherwise.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"cronledger.{name}")

    def info(self, event: str, **fields: Any) -> None:
        """Something that an operator may want to know."""
        self._say(logging.INFO, event, None, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is not as it should be, and is dealt with."""
        self._say(logging.WARNING, event, None, fields)

    def error(self, event: str, exc: BaseException | None = None, **fields: Any) -> None:
        """Somebody has to look at it; with a traceback where there is an exception."""
        self._say(logging.ERROR, event, exc, fields)

    def _say(self, level: int, event: str, exc: BaseException | None, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            said = " ".join([event, *(f"{name}={_shown(value)}" for name, value in fields.items())])
            more = {"event": event, "fields": fields}
            # The place is that of whoever called `info` and its like.
            self._logger.log(level, "%s", said, exc_info=exc, extra=more, stacklevel=3)


def _shown(value: Any) -> str:
    text = str(value) or (
        repr(value) if isinstance(value, BaseException) else ""
    )  # a TimeoutError says nothing
    return (
        text
        if text and not any(c.isspace() or c in '="' for c in text)
        else json.dumps(text, ensure_ascii=False)
    )
