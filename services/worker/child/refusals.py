"""Why a question gets no answer."""

from typing import Any

from .plain import shown_failure


class NoAnswer(Exception):
    """A question that gets none; the text is for who asked."""

    code = "failed"


class BadQuestion(NoAnswer):
    """The question itself is wrong."""

    code = "invalid"


class NotFound(NoAnswer):
    """There is no such graph, or none inside it."""

    code = "not_found"


class Unsupported(NoAnswer):
    """It would need something that is not set up."""

    code = "unsupported"


def failed(exc: BaseException) -> dict[str, Any]:
    """The exception as `contracts.queries.QueryFailed`."""
    if isinstance(exc, NoAnswer):
        return {"code": exc.code, "message": str(exc)}
    shown = shown_failure(exc)
    code = "invalid" if shown["error"] == "InvalidUpdateError" else "failed"
    return {"code": code, "message": f"{shown['error']}: {shown['message']}"}
