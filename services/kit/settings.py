"""Settings from the environment, each with its default; the README's table is made from this file."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

PREFIX = "CRONLEDGER_"
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class SettingsError(Exception):
    """An environment variable has a value that it may not have."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`CRONLEDGER_<NAME>` in the environment, read once at start."""

    data: str = ".cronledger"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 2026
    first_run: Literal["immediate", "scheduled"] = "immediate"
    seconds: Literal["off", "first"] = "off"
    crons_per_user: Annotated[int, msgspec.Meta(ge=0)] = 100
    waiting_per_thread: Positive = 500
    children: Positive = 1
    runs_per_child: Positive = 10
    child_memory_mb: Annotated[int, msgspec.Meta(ge=0)] = 0
    question_timeout_s: Seconds = 30.0
    run_timeout_s: Seconds = 3600.0
    cancel_grace_s: Seconds = 5.0
    lease_s: Seconds = 10.0
    max_body_mb: Positive = 32
    max_answer_mb: Positive = 64
    catch_up_spread_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    catch_up_window_s: Annotated[int, msgspec.Meta(ge=0)] = 86_400
    graph_python: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **given: Any) -> "Settings":
        """Settings of the environment, with what the command line gave on top. Raises SettingsError."""
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            if (text := environment.get(PREFIX + name.upper())) not in (None, ""):
                values[name] = text
        values |= {name: value for name, value in given.items() if value is not None}
        try:
            # Not strict: the environment has only text.
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as exc:
            raise SettingsError(f"environment variable {PREFIX}*: {exc}") from None
