"""Bodies of requests: JSON decoded into the struct that a handler asks for, strictly, whatever the content type says."""

import re
from collections.abc import Generator
from typing import Any, NoReturn, TypeVar

import msgspec
from litestar import Request
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from domain.errors import InvalidField

T = TypeVar("T")
NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""As JSON has it: behind a backslash that stands for itself it is only text."""


class JsonBody(AbstractDTO[T]):
    """How the framework decodes `data`: by itself it would take `"5"` for a number, and name no field first."""

    _decoders: dict[str, msgspec.json.Decoder[Any]] = {}

    def decode_bytes(self, value: bytes) -> Any:
        return decoded(self._decoders[self.asgi_connection.route_handler.handler_id], value)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        cls._decoders.setdefault(handler_id, msgspec.json.Decoder(field_definition.annotation))

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[Any, None, None]:
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


class GatewayRequest(Request[Any, Any, Any]):
    """A request without a body has an empty object."""

    async def body(self) -> bytes:
        return await super().body() or b"{}"


def decoded(decoder: "msgspec.json.Decoder[T]", data: bytes) -> T:
    """The struct of the JSON, with U+FFFD in place of each NUL, which PostgreSQL keeps in no text. Raises InvalidField."""
    if b"\\u0000" in data:
        data = NUL.sub(rb"\1\\ufffd", data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as exc:
        raise InvalidField(readable(str(exc))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        _refuse("body: Invalid JSON in request body")
    except RecursionError:
        _refuse("body: nested too deeply")


def readable(text: str) -> str:
    """Msgspec's text with the field in front: `schedule: expected str, got int`."""
    match = re.fullmatch(r"(?s)(.*) - at `\$\.?(.*)`", text)
    said, field = (match[1], match[2]) if match else (text, "")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", said):
        inner = f"{field}.{missing[1]}" if field else missing[1]
        return f"{inner}: required field is missing"
    said = said.replace("`", "")
    return f"{field or 'body'}: {said[:1].lower()}{said[1:]}"


def _refuse(text: str) -> NoReturn:
    raise InvalidField(text) from None
