"""Settings from the environment, each with its default; the README's table is made from this file."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from services.kit.mendable import Mendable

PREFIX = "CRONLEDGER_"
ELSEWHERE = ("CONFIG", "NATS_SERVER", "URL", "KEY")
"""Read where they are used: which project (`services.kit.project`), which nats-server (`services.kit.bus.embedded`),
which server commands ask (`services.commandline.server`)."""
SECRET = ("DATABASE_URL", "GRAPHS_URL", "NATS_URL", "NATS_CREDS", "NATS_KEY", "WEBHOOK_SECRETS")
"""Ours alone: what opens a door, or says where the key lies."""
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where this machine reaches what listens on all of its addresses."""


def local_url(host: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    host = LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def for_users(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process with users' code: without what it has no business with.

    So that it is not printed or sent along by accident; who wants it can still look into our memory.
    """
    ours = {"PYTHONPATH", "PGPASSWORD", *(PREFIX + name for name in SECRET)}
    return {name: value for name, value in environment.items() if name not in ours}


class SettingsError(Mendable):
    """An environment variable has a value that it may not have."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`CRONLEDGER_<NAME>` in the environment, read once at start."""

    data: str = ".cronledger"
    database_url: str = ""
    graphs_url: str = ""
    database_threads: Positive = 8
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
    pool: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    max_body_mb: Positive = 32
    max_answer_mb: Positive = 64
    webhook_secrets: str = ""
    webhook_retry_s: Seconds = 5.0
    catch_up_spread_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    catch_up_window_s: Annotated[int, msgspec.Meta(ge=0)] = 86_400
    graph_python: str = ""
    health_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    nats_url: str = ""
    nats_creds: str = ""
    nats_ca: str = ""
    nats_cert: str = ""
    nats_key: str = ""
    nats_prefix: str = ""
    nats_replicas: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0
    cors_origins: str = "*"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **given: Any) -> "Settings":
        """Settings of the environment, with what the command line gave on top. Raises SettingsError."""
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for name, kind in get_type_hints(cls, include_extras=True).items():
            said, value = f"--{name}", given.get(name)
            if value is None:
                said, value = PREFIX + name.upper(), environment.get(PREFIX + name.upper())
            if value not in (None, ""):
                values[name] = _converted(said, value, kind)
        return cls(**values)

    @classmethod
    def unknown(cls, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """Variables of the environment that look like settings and are none -> the nearest that is one, or ''."""
        known = [name.upper() for name in (*cls.__struct_fields__, *ELSEWHERE)]
        environment = os.environ if environment is None else environment
        told = sorted(name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX))
        nearest = {name: get_close_matches(name, known, 1) for name in told if name not in known}
        return {PREFIX + name: PREFIX + near[0] if near else "" for name, near in nearest.items()}


def _converted(said: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)  # the environment has only text
    except msgspec.ValidationError as exc:
        reason = str(exc)
        raise SettingsError(f"{said}={value}: {reason[0].lower()}{reason[1:]}") from None
