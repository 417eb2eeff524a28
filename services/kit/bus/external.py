"""NATS that somebody else runs: its address from the settings, checked before anything rests on it."""

import asyncio
import importlib.util
import re
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from services.kit.bus import Certificates, Endpoint, Login, NatsServer, NoResponders
from services.kit.bus.client import context_of
from services.kit.bus.embedded import EmbeddedNats, runtime_endpoint
from services.kit.bus.nats import NatsBus
from services.kit.lifecycle import Part
from services.kit.mendable import Mendable
from services.kit.settings import Settings

API_S = 20.0
"""How long a JetStream that elects its leader is waited for."""
PREFIX = re.compile(r"[A-Za-z0-9_-]{1,32}")
ROOTS = frozenset({"ledger", "runq", "runs", "graphs", "nudge", "views", "log"})
"""What the subjects of an installation without a prefix begin with."""
NOT_ENABLED = frozenset({10039, 10076})
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]*)(:[0-9]*)?/?")
JWT, SEED = "BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"


class NatsSettingsError(Mendable):
    """What the settings say about NATS can't be right; the text never has a password in it."""


class NatsUnfit(Mendable):
    """NATS is there and can't be used as it is."""


class ExternalNats:
    """Servers that live without us: a part that only looks whether they are fit when it starts."""

    name, failing = "nats", ""
    parts: Sequence[Part] = ()

    def __init__(self, endpoint: Endpoint, replicas: int) -> None:
        self.endpoint, self.replicas = endpoint, replicas
        self.started = False

    async def start(self) -> Endpoint:
        """Return when one of the servers lets us in and its JetStream answers, within half a minute.

        Raises ConnectionError, NatsUnfit.
        """
        if not self.started:
            bus = await NatsBus.connect(self.endpoint, "cronledger-check")
            try:
                await _check_jetstream(bus)
            finally:
                await bus.stop()
            self.started = True
        return self.endpoint

    async def stop(self) -> None:
        """They live on."""
        self.started = False


async def _check_jetstream(bus: NatsBus) -> None:
    until, why = time.monotonic() + API_S, ""
    while time.monotonic() < until:
        try:
            error = (await bus.api("INFO")).get("error")
        except NoResponders:
            raise NatsUnfit(
                "NATS: JetStream is not enabled there, or not for the account of this user (`jetstream { ... }` in "
                "the configuration of nats-server)"
            ) from None
        except (ConnectionError, TimeoutError) as exc:
            # What the server says may be that a right is missing; that others of the pool are away says nothing.
            said = bus.client.last_error
            why = str(exc if said is None or isinstance(said, OSError) else said)
        else:
            if error is None:
                return
            why = str(error.get("description"))
            if error.get("err_code") in NOT_ENABLED:
                raise NatsUnfit(f"NATS: {why}")
        await asyncio.sleep(0.2)
    more = "; of a cluster more than half of the servers must be there" if bus.info.get("cluster") else ""
    raise NatsUnfit(f"NATS: JetStream gives no answer to $JS.API.INFO: {why}{more}")


def external(settings: Settings) -> ExternalNats | None:
    """The part for what the settings name; None when they name none, and the bundled server is meant.

    Raises NatsSettingsError.
    """
    if not settings.nats_url:
        _check_alone(settings)
        return None
    endpoint = Endpoint(
        servers=tuple(_server(text) for text in _texts(settings.nats_url)),
        login=_login(settings),
        certificates=_certificates(settings),
        prefix=checked_prefix(settings.nats_prefix),
    )
    return ExternalNats(endpoint, settings.nats_replicas)


def server_of(settings: Settings, folder: Path) -> NatsServer:
    """The part that has the bus: that of the settings, else the bundled one in the folder. Raises NatsSettingsError."""
    return external(settings) or EmbeddedNats(folder)


def endpoint_of(settings: Settings, folder: Path) -> Callable[[], Endpoint]:
    """Where the bus is, for a process beside the one that has it in the folder. Raises NatsSettingsError."""
    outside = external(settings)
    return partial(runtime_endpoint, folder) if outside is None else lambda: outside.endpoint


def checked_prefix(text: str) -> str:
    """The prefix, if it may be one. Raises NatsSettingsError."""
    if text and PREFIX.fullmatch(text) is None:
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_PREFIX={text}: may have 1 to 32 letters, digits, _ and -, and nothing else"
        )
    if text in ROOTS:
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_PREFIX={text}: installations without a prefix use that name"
        )
    return text


def _check_alone(settings: Settings) -> None:
    """Whoever gives a user or a file for NATS means servers of their own, and forgot which."""
    for name in ("nats_creds", "nats_ca", "nats_cert", "nats_key", "nats_prefix", "nats_replicas"):
        if getattr(settings, name):
            raise NatsSettingsError(f"CRONLEDGER_{name.upper()} is set, and CRONLEDGER_NATS_URL is not")


def _texts(urls: str) -> list[str]:
    texts = [text.strip() for text in urls.split(",") if text.strip()]
    if not texts:
        raise NatsSettingsError("CRONLEDGER_NATS_URL has no address in it")
    return texts


def _split(text: str) -> SplitResult:
    """The parts of an address. Raises NatsSettingsError, which shows nothing of what stands before an @."""
    shown = _shown(text)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise NatsSettingsError(f"CRONLEDGER_NATS_URL: {shown}: is no address") from None
    if parts.scheme not in ("nats", "tls"):
        raise NatsSettingsError(f"CRONLEDGER_NATS_URL: {shown}: must begin with nats:// or tls://")
    try:
        port = parts.port
    except ValueError:
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_URL: {shown}: no port; a password with one of / ? # @ % must be percent-encoded"
        ) from None
    if not parts.hostname or port == 0:
        raise NatsSettingsError(f"CRONLEDGER_NATS_URL: {shown}: {'port 0' if port == 0 else 'no host'}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_URL: {shown}: has something behind host and port; a password with one of / ? # must "
            "be percent-encoded"
        )
    return parts


def _shown(text: str) -> str:
    """The address without what may be a secret: what stands before an @, or anything that is no host and port."""
    scheme, mark, rest = text.rpartition("://")
    _, at, host = rest.rpartition("@")
    if ADDRESS.fullmatch(host) is None:
        return f"{scheme}{mark}***"
    return f"{scheme}{mark}{'***@' if at else ''}{host}"


def _server(text: str) -> str:
    parts = _split(text)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 4222}"


def _login(settings: Settings) -> Login:
    logins = dict.fromkeys(
        (parts.username or "", parts.password)
        for parts in map(_split, _texts(settings.nats_url))
        if parts.username
    )
    if len(logins) > 1:
        raise NatsSettingsError("CRONLEDGER_NATS_URL: all servers of it must have the same user and password")
    if logins and settings.nats_creds:
        raise NatsSettingsError(
            "CRONLEDGER_NATS_CREDS and a user in CRONLEDGER_NATS_URL: only one can be meant"
        )
    if settings.nats_creds:
        return Login(creds=_credentials(settings.nats_creds))
    for user, password in logins:
        # A name alone is a token, for every client of NATS.
        return (
            Login(token=unquote(user))
            if password is None
            else Login(user=unquote(user), password=unquote(password))
        )
    return Login()


def _credentials(path: str) -> str:
    text = _readable("CRONLEDGER_NATS_CREDS", path)
    if JWT not in text or SEED not in text:
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_CREDS={path}: is no file of credentials (as `nsc generate creds` writes them)"
        )
    if importlib.util.find_spec("nkeys") is None:
        raise NatsSettingsError(
            "CRONLEDGER_NATS_CREDS needs the package nkeys, which is not installed: pip install 'cronledger[nkeys]'"
        )
    return path


def _certificates(settings: Settings) -> Certificates:
    files = Certificates(settings.nats_ca, settings.nats_cert, settings.nats_key)
    for name in ("ca", "cert", "key"):
        if path := getattr(files, name):
            _readable(f"CRONLEDGER_NATS_{name.upper()}", path)
    if files.key and not files.cert:
        raise NatsSettingsError("CRONLEDGER_NATS_KEY is set, and CRONLEDGER_NATS_CERT is not")
    if files == Certificates():
        return files
    try:
        context_of(Certificates(ca=files.ca))
    except ssl.SSLError:
        raise NatsSettingsError(f"CRONLEDGER_NATS_CA={files.ca}: has no certificate in PEM form") from None
    try:
        context_of(files)
    except (ssl.SSLError, ValueError):
        raise NatsSettingsError(
            f"CRONLEDGER_NATS_CERT={files.cert}, CRONLEDGER_NATS_KEY={files.key}: no certificate in PEM form with its "
            "key, without a password on it"
        ) from None
    return files


def _readable(variable: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except UnicodeDecodeError:
        raise NatsSettingsError(f"{variable}={path}: is no text") from None
    except OSError as exc:
        raise NatsSettingsError(f"{variable}={path}: {exc.strerror or exc}") from None
