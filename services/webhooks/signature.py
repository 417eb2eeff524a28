"""Signatures in the form of Standard Webhooks, so that receivers verify them with its libraries."""

import base64
import hashlib
import hmac

from services.kit.settings import SettingsError

PREFIX = "whsec_"
LEAST, MOST = 24, 64
"""Bytes of a secret, as Standard Webhooks has them."""


class Signer:
    """Signs with each of the secrets: a receiver that knows one of them is content, while they are exchanged."""

    def __init__(self, secrets: str) -> None:
        """`secrets`: `whsec_` and base64 each, separated by blanks or commas. Raises SettingsError."""
        self._keys = [_key(text) for text in secrets.replace(",", " ").split()]

    def headers(self, delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers of an attempt at that second; without a secret there is no signature."""
        told = {"webhook-id": delivery_id, "webhook-timestamp": str(timestamp)}
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        digests = [hmac.digest(key, signed, hashlib.sha256) for key in self._keys]
        if digests:
            told["webhook-signature"] = " ".join(
                f"v1,{base64.b64encode(digest).decode()}" for digest in digests
            )
        return told


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(PREFIX) or not LEAST <= len(key) <= MOST:
        # Never the secret itself in a message.
        raise SettingsError(
            f"CRONLEDGER_WEBHOOK_SECRETS: each is {PREFIX} and {LEAST} to {MOST} bytes in base64, separated by blanks"
        )
    return key
