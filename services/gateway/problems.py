"""Refusals to HTTP: one table, and one form of error body."""

import re
from typing import Any, get_args

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.params import KwargDefinition, ParameterKwarg

from contracts.answers.system import Problem
from domain import errors
from services.gateway.bodies import readable
from services.gateway.queries.graphs import GraphsUnavailable
from services.kit.commands import Conflict
from services.kit.eventlog import LogUnavailable
from services.kit.logs import Log
from services.kit.views import ViewsUnavailable

log_ = Log("gateway")
STATUSES: dict[type[Exception], int] = {
    errors.Refused: 422,
    errors.InvalidField: 422,
    errors.InvalidSchedule: 422,
    errors.InvalidTimezone: 422,
    errors.NotSupported: 422,
    errors.ContradictoryRequest: 400,
    errors.IncompleteRequest: 400,
    errors.EmptyUpdate: 400,
    errors.NotFound: 404,
    errors.CronNotFound: 404,
    errors.ThreadNotFound: 404,
    errors.RunNotFound: 404,
    errors.BackfillNotFound: 404,
    errors.DeliveryNotFound: 404,
    errors.AssistantNotFound: 404,
    errors.AssistantVersionNotFound: 404,
    errors.DefaultAssistant: 409,
    errors.AlreadyExists: 409,
    errors.ThreadBusy: 409,
    errors.CronBusy: 409,
    errors.ThreadWithoutGraph: 400,
    errors.LaneFull: 429,
    errors.TooManyCrons: 429,
    errors.AnswerTooLarge: 413,
    errors.RunNotActive: 409,
    errors.MustRollBack: 409,
    errors.GraphFailed: 422,
    Conflict: 409,
    LogUnavailable: 503,
    ViewsUnavailable: 503,
    GraphsUnavailable: 503,
}
CODES: dict[type[Exception], str] = {
    Conflict: "conflict",
    LogUnavailable: "log_unavailable",
    ViewsUnavailable: "views_unavailable",
    GraphsUnavailable: "graphs_unavailable",
}


def problem(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """The answer for anything that was raised."""
    status, code, detail = _invalid(request, exc) if isinstance(exc, ValidationException) else _told(exc)
    if status == 500:
        log_.error("gateway.failed", exc, method=request.method, path=request.url.path)
    elif status > 500:  # what the answer says is all that is to be known, for as many requests as come
        log_.warning("gateway.unavailable", method=request.method, path=request.url.path, error=exc)
    body = msgspec.json.encode(Problem(detail, code, detail))
    return Response(body, status_code=status, media_type="application/json")


def _told(exc: Exception) -> tuple[int, str, str]:
    if isinstance(exc, HTTPException):
        return exc.status_code, "http", _HTTP.get(exc.status_code, exc.detail)
    for cls in type(exc).__mro__:
        if cls in STATUSES:
            code = exc.code if isinstance(exc, errors.Refused) else CODES[cls]
            return STATUSES[cls], code, str(exc)
    return 500, "internal", "Internal Server Error"


def _invalid(request: Request[Any, Any, Any], exc: ValidationException) -> tuple[int, str, str]:
    """A parameter of the path or the query that is not what its handler says."""
    if not (isinstance(exc.extra, list) and exc.extra):
        missing = re.search(r"parameter '(.+?)'", exc.detail)
        said = f"{missing[1]}: must be given" if missing else exc.detail
    else:
        field = exc.extra[0].get("key", "query").partition(".")[0]
        expected = _expected(request, field) or readable(exc.extra[0]["message"])
        said = f"{_called(request, field)}: {expected}"
    return 422, errors.InvalidField.code, said


def _called(request: Request[Any, Any, Any], field: str) -> str:
    """What clients call the parameter: a handler can't have them all under their own names."""
    declared = request.route_handler.parsed_fn_signature.parameters.get(field)
    definition = None if declared is None else declared.kwarg_definition
    return definition.query or field if isinstance(definition, ParameterKwarg) else field


def _expected(request: Request[Any, Any, Any], field: str) -> str:
    """What the parameter must be, in words; '' when only the decoder can say."""
    declared = request.route_handler.parsed_fn_signature.parameters.get(field)
    if declared is None:
        return ""
    kind = declared if not declared.is_optional else declared.inner_types[0]
    if kind.annotation is bool:
        return "must be true or false"
    bounds = declared.kwarg_definition or kind.kwarg_definition
    if kind.annotation is int and isinstance(bounds, KwargDefinition) and bounds.le is not None:
        return f"must be a whole number from {bounds.ge} to {bounds.le}"
    choices = get_args(kind.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"must be one of {', '.join(choices)}"
    return ""


_HTTP = {404: "Not Found", 405: "Method Not Allowed", 413: "Request body is too large"}
