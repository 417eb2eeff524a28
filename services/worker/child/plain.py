"""Values of graphs as JSON; what nobody can know becomes null."""

import base64
import builtins
import dataclasses
import enum
import json
import math
import pathlib
import re
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson

OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
NUL = b"\\u0000"
HIDDEN = "An internal error occurred"
SHOWN = (
    "ValueError",
    "TypeError",
    "KeyError",
    "AttributeError",
    "RuntimeError",
    "RecursionError",
    "TimeoutError",
    "MemoryError",
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
)
"""Exceptions (and their subclasses) whose text a client may read; others can hold secrets."""


def encode(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """The value as JSON, compact; `default` is what objects become, `shallow` if it is not given."""
    default = default or shallow
    try:
        data = orjson.dumps(value, default=default, option=OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, integers over 64 bits, odd keys, great depth: slow, and rare.
        return json.dumps(plain(value, default), ensure_ascii=False, separators=(",", ":")).encode()
    if NUL in data:
        return json.dumps(plain(value, default), ensure_ascii=False, separators=(",", ":")).encode()
    return data


def plain(value: Any, default: Callable[[Any], Any]) -> Any:
    """The value in a form that JSON has, whatever is in it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, default)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {
            clean(key if isinstance(key, str) else str(key)): plain(item, default)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, default) for item in value]
    return plain(default(value), default)


def shallow(value: Any) -> Any:
    """An object as what JSON has or is nearer to it; its members may still be objects."""
    if hasattr(value, "model_dump") and callable(value.model_dump) and not isinstance(value, type):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return _number(value)
    if hasattr(value, "isoformat") and not isinstance(value, type):
        return value.isoformat()
    if isinstance(value, pathlib.PurePath) or type(value).__module__ in ("uuid", "ipaddress"):
        return str(value)
    if isinstance(value, re.Pattern):
        return value.pattern
    return None


def _number(value: Decimal) -> int | float | None:
    if not value.is_finite():
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def clean(text: str) -> str:
    """The text without what JSON or a database can't hold."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def shown_failure(exc: BaseException) -> dict[str, str]:
    """Class and text of an exception as a client may see it."""
    names = {cls.__name__ for cls in type(exc).__mro__}
    ours = any(cls.__module__.startswith("langgraph.errors") for cls in type(exc).__mro__)
    readable = ours or bool(names & set(SHOWN)) or "HTTPException" in names
    text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
    return {"error": type(exc).__name__, "message": clean(text) if readable else HIDDEN}


def shown_error(error: Any) -> str | None:
    """The error of a task as a client may see it: an exception, or the `repr` that a checkpoint keeps of one."""
    if error is None:
        return None
    if isinstance(error, BaseException):
        shown = shown_failure(error)
        return f"{shown['error']}({shown['message']!r})"
    text = str(error)
    name = text.partition("(")[0]
    cls = getattr(builtins, name, None)
    names = {c.__name__ for c in cls.__mro__} if isinstance(cls, type) else {name}
    return (
        clean(text) if names & set(SHOWN) else f"{name if name.isidentifier() else 'Exception'}({HIDDEN!r})"
    )


def visible(members: Any) -> Any:
    """A config's or metadata's members without what is the server's or LangGraph's own business."""
    if not isinstance(members, dict):
        return members
    return {
        key: value
        for key, value in members.items()
        if not (isinstance(key, str) and key.startswith(("__", "langgraph_auth_")))
    }


def visible_config(config: Any) -> Any:
    """A RunnableConfig with only the visible members in its configurable and metadata."""
    if not isinstance(config, dict):
        return config
    changed = {name: visible(config[name]) for name in ("configurable", "metadata") if name in config}
    return {**config, **changed}
