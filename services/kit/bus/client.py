"""The client library as we use it: what it is told to connect with, what it would do wrong, why it is refused."""

import asyncio
import ssl
import time
from typing import Any

import nats.errors
from nats.aio.client import DEFAULT_BUFFER_SIZE, Client, Srv
from nats.aio.transport import TcpTransport

from services.kit.bus import Certificates, Endpoint, Login
from services.kit.bus.large import MOST_BYTES

OLDEST_SERVER = (2, 12)  # atomic batches
LEAST_PAYLOAD = MOST_BYTES + (64 << 10)
"""Bytes of one message that a server must take: a part of a large value, with its headers."""
FIRST_CONNECT_S = 10.0
ROUNDS, ROUND_S = 3, 1.0
"""A server that is on its way back is waited for so often; what will not mend by waiting is said at once."""
BRIEF_S = 2.0
CLOSED_S = 1.0


class Unfit(nats.errors.Error):
    """A server that we do not talk to, whatever it says; the text is for a person."""


class _Transport(TcpTransport):
    """One that a TLS handshake that failed can't hold: nobody is told of its end, and the library waits for it."""

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(CLOSED_S):
                await super().wait_closed()  # type: ignore[no-untyped-call]
        except TimeoutError:
            for writer in (self._io_writer, self._bare_io_writer):
                if writer is not None:
                    writer.transport.abort()


class BusClient(Client):
    """A connection that sends no secret before TLS, and talks to no server that can't do what we need.

    It rests on names of the library that are not public, as its version is pinned. All of it is asked again at
    each reconnect, which may lead to another server of the cluster.
    """

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]  # else that of a server that we refused stays open
        self._transport = _Transport()  # type: ignore[no-untyped-call]
        await self._transport.connect(s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._wants_tls() and info.get("tls_available"):
            info["tls_required"] = True  # the library looks at that alone
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        """The first that is sent. Raises Unfit."""
        info = self._server_info
        if self._wants_tls() and not info.get("tls_required"):
            raise Unfit("it offers no TLS; write nats:// instead of tls:// if that is meant")
        version = str(info.get("version", "0"))
        if version_of(version) < OLDEST_SERVER:
            raise Unfit(f"nats-server {version} is too old; 2.12 or newer is needed")
        if int(info.get("max_payload", 0)) < LEAST_PAYLOAD:
            raise Unfit(
                f"its max_payload is {info.get('max_payload')} bytes; at least {LEAST_PAYLOAD} are needed (1MB, say)"
            )
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        # The library closes itself for good on nearly all of these: a user whose password is changed, or whose
        # credentials expired, would never be back.
        if "permissions violation" in err_msg.lower() or not self.is_connected:
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))

    def _wants_tls(self) -> bool:
        return self._current_server is not None and self._current_server.uri.scheme == "tls"


def version_of(text: str) -> tuple[int, ...]:
    """Major and minor; zeros for what is no version."""
    parts = text.removeprefix("v").split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def options_of(endpoint: Endpoint) -> dict[str, Any]:
    """What the client is told about the way in. Raises OSError when a file can't be read."""
    login = endpoint.login
    options: dict[str, Any] = {
        "token": login.token or None,
        "user": login.user or None,
        "password": login.password if login.user else None,
        "user_credentials": login.creds or None,
    }
    if endpoint.certificates != Certificates():
        options["tls"] = context_of(endpoint.certificates)
    if endpoint.prefix:
        options["inbox_prefix"] = f"_INBOX_{endpoint.prefix}"  # may be allowed or denied beside the subjects
    return options


def context_of(files: Certificates) -> ssl.SSLContext:
    """How to trust servers, and what to show them. Raises OSError (ssl.SSLError is one), ValueError."""
    context = ssl.create_default_context(cafile=files.ca or None)
    if files.cert:
        # Without a password of its own the library of TLS would ask whoever sits at the terminal.
        context.load_cert_chain(files.cert, files.key or None, password=lambda: "")
    return context


async def probe(endpoint: Endpoint) -> None:
    """Return when one of the servers lets us in; the endless connect would say of none why it does not.

    Raises ConnectionError with the reason of each, within some seconds.
    """
    reasons: dict[str, str] = {}
    try:
        async with asyncio.timeout(FIRST_CONNECT_S):
            for n in range(ROUNDS):
                waits = False
                for server in endpoint.servers:
                    try:
                        await _connect_once(endpoint, server)
                        return
                    except (nats.errors.Error, OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
                        reasons[server] = reason_of(exc, endpoint)
                        waits = waits or _may_pass(exc)
                if not waits:
                    break
                if n + 1 < ROUNDS:
                    await asyncio.sleep(ROUND_S)
    except TimeoutError:
        for server in endpoint.servers:
            reasons.setdefault(server, f"not asked, {FIRST_CONNECT_S:g} s were over")
    raise ConnectionError("; ".join(f"NATS at {server}: {reason}" for server, reason in reasons.items()))


def _may_pass(exc: BaseException) -> bool:
    return isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError | TimeoutError)


async def _connect_once(endpoint: Endpoint, server: str) -> None:
    async def fail(exc: Exception) -> None:
        raise exc  # else the library would try again, and forget why

    client = BusClient()
    try:
        await client.connect(
            server,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=int(BRIEF_S),
            error_cb=fail,
            **options_of(endpoint),
        )
        if not client.is_connected:
            raise ConnectionResetError  # the library takes the end of the connection for no answer
    finally:
        client._error_cb = _quiet
        transport = client._transport  # a refused connection is left open by the client
        await client.close()
        if transport is not None:
            transport.close()  # type: ignore[no-untyped-call]


async def _quiet(_: Exception) -> None:
    return


def reason_of(exc: BaseException, endpoint: Endpoint) -> str:
    """Why a connection failed, for whoever set its address: never with a secret in it."""
    text = str(exc)
    match exc:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not trusted: {exc.verify_message or text}; CRONLEDGER_NATS_CA names the file "
                "of the authority that signed it"
            )
        case ssl.SSLError() if "CERTIFICATE_REQUIRED" in text or "BAD_CERTIFICATE" in text:
            return (
                "it wants a certificate of ours: CRONLEDGER_NATS_CERT and CRONLEDGER_NATS_KEY name its files"
            )
        case ssl.SSLError():
            return f"TLS failed: {exc.reason or text}"
        case Unfit():
            return text
        case nats.errors.AuthorizationError():
            return _refused(endpoint.login)
        case nats.errors.Error() if "authorization" in text.lower() or "authentication" in text.lower():
            return _refused(endpoint.login)
        case nats.errors.Error() if "expecting INFO" in text or "json parse" in text:
            return "who listens there is no nats-server"
        case TimeoutError():
            return f"no answer within {BRIEF_S:g} s; is that a nats-server, and does nothing stand between?"
        case ConnectionRefusedError():
            return "nobody listens there"
        case ConnectionError():
            # A server that wants a certificate may be gone before what it says of it is read.
            hint = (
                ""
                if endpoint.certificates.cert
                else "; if it wants a certificate, set CRONLEDGER_NATS_CERT and _KEY"
            )
            return f"it hung up on us{hint}"
        case OSError():
            return exc.strerror or text
    return text.removeprefix("nats: ").strip("'")


def _refused(login: Login) -> str:
    if login.creds:
        return f"it refuses the credentials of {login.creds}"
    if login.user:
        return f"it refuses the user '{login.user}' with that password"
    return (
        "it refuses the token" if login.token else "it wants to know who we are; give a user and a password"
    )
