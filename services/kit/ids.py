"""Fresh ids."""

from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["parse_uuid", "uuid7"]


def parse_uuid(text: str) -> UUID | None:
    """The UUID in its hyphenated form, any case; None for anything else (braces, urn, bare hex)."""
    if len(text) != 36:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
