"""What the server says of itself, and how it refuses."""

from typing import Literal

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused. Nothing of it was written."""

    detail: str  # for people, with the field in front
    error: str  # short and stable
    message: str  # the same as `detail`, for clients that look there


class Alive(msgspec.Struct, frozen=True):
    """The server answers."""

    ok: bool = True
    services: dict[str, str] = {}


class Flags(msgspec.Struct, frozen=True):
    """What clients may use here."""

    assistants: bool = True
    crons: bool = True
    langsmith: bool = False
    streaming: bool = True
    store: bool = True


class Host(msgspec.Struct, frozen=True):
    """Where it runs, as far as hosting services are concerned: nowhere."""

    kind: Literal["self-hosted"] = "self-hosted"
    project_id: None = None
    revision_id: None = None
    tenant_id: None = None


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The server and its version."""

    name: str = "Cronledger"
    version: str
    langgraph_py_version: str
    status: Literal["running"] = "running"
    flags: Flags = Flags()
    host: Host = Host()


class Liveness(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Health(msgspec.Struct, frozen=True):
    """Each part with `ok`, or with why it is not well, or what an operator should know of it."""

    status: Literal["healthy", "unhealthy"]
    services: dict[str, str]
