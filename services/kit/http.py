"""The `http` section of the project file: whom the server lets in, what it leaves out, what is served beside it."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

GROUPS = ("assistants", "threads", "runs", "store", "meta", "webhooks", "mcp")
Group = Literal["assistants", "threads", "runs", "store", "meta", "webhooks", "mcp"]
NEVER = frozenset({"authorization", "x-api-key", "x-tenant-id", "x-service-key"})
"""Headers that never enter a run's config: keys."""
HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
Pattern = Annotated[str, msgspec.Meta(pattern=HEADER)]


class CorsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`http.cors`: which web pages may call, and how."""

    allow_origins: list[str] = []
    allow_origin_regex: str | None = None
    allow_methods: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    expose_headers: list[str] = []
    max_age: Annotated[int, msgspec.Meta(ge=0)] = 600


class HeaderChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names of headers, lower case or not; `*` stands for anything."""

    includes: list[Pattern] = []
    excludes: list[Pattern] = []

    def has(self, name: str) -> bool:
        """Whether the header of that lower-case name is chosen."""
        if name in NEVER or _meets(name, self.excludes):
            return False
        return _meets(name, self.includes)


class AppSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the project's application is: a file (absolute) or a module, and the name in it."""

    variable: str
    path: Path | None = None
    module: str = ""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the project says of HTTP."""

    app: AppSource | None = None
    cors: CorsSettings | None = None
    configurable_headers: HeaderChoice = HeaderChoice()
    mount_prefix: str = ""
    disabled: frozenset[str] = frozenset()


def _meets(name: str, patterns: list[str]) -> bool:
    return any(re.fullmatch(re.escape(one.lower()).replace(r"\*", ".*"), name) for one in patterns)
