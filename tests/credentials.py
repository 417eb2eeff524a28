"""An operator of NATS for the tests: accounts and users by signed tokens, as `nsc` makes them."""

import base64
import json
import os
import time
from typing import Any

import nkeys

NO_LIMIT = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage"), -1
) | {"streams": -1, "consumer": -1, "wildcards": True}


class Operator:
    """One account with JetStream, and a user of it."""

    def __init__(self) -> None:
        self._operator = _pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = _pair(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """What the configuration of a server says of it."""
        operator = _signed(self._operator, self._operator, "operator", {})
        preload = "\n".join(
            f"{_public(pair)}: {_signed(self._operator, pair, 'account', limits)}"
            for pair, limits in ((self._account, {"limits": NO_LIMIT}), (self._system, {}))
        )
        return (
            f"operator: {operator}\nresolver: MEMORY\nsystem_account: {_public(self._system)}\n"
            f"resolver_preload {{\n{preload}\n}}"
        )

    def credentials(self) -> str:
        """The file of a user."""
        user = _pair(nkeys.PREFIX_BYTE_USER)
        told = _signed(
            self._account, user, "user", {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{told}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
        )


def _pair(prefix: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


def _public(pair: Any) -> str:
    return bytes(pair.public_key).decode()


def _signed(issuer: Any, subject: Any, kind: str, claims: dict[str, Any]) -> str:
    body = {
        "jti": os.urandom(8).hex(),
        "iat": int(time.time()),
        "iss": _public(issuer),
        "name": kind,
        "sub": _public(subject),
        "nats": {**claims, "type": kind, "version": 2},
    }
    text = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _encoded(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
