"""Asking the owner of the read models to build them anew, and how far it is."""

import msgspec


class RebuildAsked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Begin (`number` 0), or tell of the one with that number. No names = every read model."""

    names: tuple[str, ...] = ()
    number: int = 0


class RebuildTold(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far it is: `position` of `head`. Once it has ended, `failed` says why it did not succeed ('' = it did)."""

    number: int
    names: tuple[str, ...] = ()
    position: int = 0
    head: int = 0
    ended: bool = False
    failed: str = ""
