"""Fresh ids."""

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """A new time-ordered UUID (RFC 9562, version 7): 48 bits of milliseconds, the rest random."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | (7 << 76) | (2 << 62))


def parse_uuid(text: str) -> UUID | None:
    """The UUID in its hyphenated form, any case; None for anything else (braces, urn, bare hex)."""
    if len(text) != 36:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
