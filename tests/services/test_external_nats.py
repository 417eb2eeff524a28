"""NATS that somebody else runs: what the settings may say, who lets us in, and what is said when nobody does."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contracts.subjects import LEDGER, RUNEV, RUNS, STREAMS, run_queue_subject
from services.kit.bus import Endpoint, Login, Outgoing
from services.kit.bus.external import ExternalNats, NatsSettingsError, NatsUnfit, external
from services.kit.bus.nats import NatsBus
from services.kit.bus.ordered import OrderedPublisher
from services.kit.bus.pages import Pages
from services.kit.bus.streams import StreamDiffers, ensure_streams
from services.kit.bus.work import PullLoop, WorkQueue
from services.kit.settings import Settings
from tests.certificates import Authority
from tests.credentials import Operator
from tests.nats import CONFIG, NatsCluster, NatsNode, binary_of, free_port, until

Start = Callable[..., NatsNode]
BARE = 'server_name: {name}\nlisten: "127.0.0.1:{port}"\nlog_file: "{folder}/log"\n{more}\n'
SECRET = "s3cr3t/w@rd"
QUOTED = "s3cr3t%2Fw%40rd"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Servers with what is to stand in their configuration besides."""
    nodes: list[NatsNode] = []

    def make(more: str = "", config: str = CONFIG, binary: Path | None = None) -> NatsNode:
        nodes.append(NatsNode(tmp_path / f"node{len(nodes)}", more, config=config, binary=binary))
        return nodes[-1].start()

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs certificates."""
    return Authority(tmp_path_factory.mktemp("certificates"))


def part_of(**given: object) -> ExternalNats:
    """The part that the settings give."""
    part = external(Settings(**given))  # type: ignore[arg-type]
    assert part is not None
    return part


async def bus_of(**given: object) -> NatsBus:
    """A connection, after the check."""
    part = part_of(**given)
    return await NatsBus.connect(await part.start(), "test")


async def refused(text: str, **given: object) -> str:
    """What is said when it does not start."""
    with pytest.raises((ConnectionError, NatsUnfit), match=text) as told:
        await part_of(**given).start()
    assert SECRET not in str(told.value)
    assert QUOTED not in str(told.value)
    return str(told.value)


# --- what is written in the settings -----------------------------------------------------------------


def test_without_an_address_the_bundled_server_is_meant() -> None:
    assert external(Settings()) is None


def test_an_address_has_several_servers_and_one_user() -> None:
    url = f"nats://me:{QUOTED}@a, tls://me:{QUOTED}@b.example:4333,nats://me:{QUOTED}@[::1]:5000"
    part = part_of(nats_url=url, nats_prefix="blue-1", nats_replicas=3)
    servers = ("nats://a:4222", "tls://b.example:4333", "nats://[::1]:5000")
    assert part.endpoint == Endpoint(servers, Login(user="me", password=SECRET), prefix="blue-1")
    assert part.replicas == 3
    assert SECRET not in repr(part.endpoint)
    assert part_of(nats_url="nats://t0ken@a").endpoint.login == Login(token="t0ken")
    assert "t0ken" not in repr(part_of(nats_url="nats://t0ken@a").endpoint)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"nats_url": "localhost:4222"}, "localhost:4222: must begin with nats:// or tls://"),
        ({"nats_url": f"http://me:{QUOTED}@a"}, r"http://\*\*\*@a: must begin"),
        ({"nats_url": "nats://a:x"}, r"nats://\*\*\*: no port"),
        ({"nats_url": "nats://a:0"}, "port 0"),
        ({"nats_url": "nats://:4222"}, "no host"),
        ({"nats_url": "nats://[::1"}, "is no address"),
        ({"nats_url": "nats://a/subject"}, "behind host and port"),
        ({"nats_url": f"nats://me:{SECRET}@a"}, "must be percent-encoded"),
        ({"nats_url": "nats://me:s3cr3t/w"}, r"nats://\*\*\*: "),
        ({"nats_url": " , "}, "no address"),
        ({"nats_url": "nats://a:b@x,nats://c:d@y"}, "same user and password"),
        ({"nats_url": "nats://a", "nats_prefix": "a.b"}, "CRONLEDGER_NATS_PREFIX=a.b: may have 1 to 32"),
        ({"nats_url": "nats://a", "nats_prefix": "runs"}, "without a prefix use that name"),
        ({"nats_prefix": "blue"}, "CRONLEDGER_NATS_PREFIX is set, and CRONLEDGER_NATS_URL is not"),
        ({"nats_url": "nats://a", "nats_creds": "/nowhere.creds"}, "_CREDS=/nowhere.creds: No such file"),
        ({"nats_url": "nats://a:b@x", "nats_creds": "/nowhere.creds"}, "only one can be meant"),
        ({"nats_url": "tls://a", "nats_ca": "/nowhere.pem"}, "_CA=/nowhere.pem: No such file"),
        ({"nats_url": "tls://a", "nats_ca": __file__}, "no certificate in PEM form"),
        ({"nats_url": "tls://a", "nats_cert": __file__}, "no certificate in PEM form with its key"),
        ({"nats_url": "tls://a", "nats_key": __file__}, "_KEY is set, and CRONLEDGER_NATS_CERT is not"),
        ({"nats_url": "nats://a", "nats_creds": __file__}, "is no file of credentials"),
    ],
)
def test_a_mistake_is_told_by_its_name_and_without_a_secret(given: dict[str, str], text: str) -> None:
    with pytest.raises(NatsSettingsError, match=text) as told:
        external(Settings(**given))  # type: ignore[arg-type]
    assert "s3cr3t" not in str(told.value)


# --- who is let in -----------------------------------------------------------------------------------


async def test_a_user_with_a_password_is_let_in(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    node = start(f'authorization {{ user: me, password: "{SECRET}" }}')
    host = f"127.0.0.1:{node.port}"
    bus = await bus_of(nats_url=f"nats://me:{QUOTED}@{host}")
    await ensure_streams(bus, STREAMS)
    await bus.stop()
    await refused("it refuses the user 'me'", nats_url=f"nats://me:{QUOTED}x@{host}")
    await refused("give a user and a password", nats_url=f"nats://{host}")
    await refused("it refuses the token", nats_url=f"nats://{QUOTED}@{host}")
    assert "s3cr3t" not in caplog.text


async def test_credentials_of_a_file_let_us_in(start: Start, tmp_path: Path) -> None:
    operator = Operator()
    node = start(operator.config)
    creds = tmp_path / "me.creds"
    creds.write_text(operator.credentials())
    bus = await bus_of(nats_url=node.url, nats_creds=str(creds))
    await ensure_streams(bus, STREAMS)
    await bus.stop()
    creds.write_text(Operator().credentials())
    await refused("refuses the credentials of", nats_url=node.url, nats_creds=str(creds))


def test_credentials_without_the_package_for_them_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    creds = tmp_path / "me.creds"
    creds.write_text(Operator().credentials())
    monkeypatch.setitem(__import__("sys").modules, "nkeys", None)
    with pytest.raises(NatsSettingsError, match=r"pip install 'cronledger\[nkeys\]'"):
        part_of(nats_url="nats://a", nats_creds=str(creds))


async def test_who_is_trusted_and_shows_a_certificate_is_let_in(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    server, ours = authority.issue("server"), authority.issue("client")
    files = f'cert_file: "{server.cert}", key_file: "{server.key}"'
    node = start(f'tls {{ {files}, ca_file: "{authority.cert}", verify: true }}')
    url = f"tls://127.0.0.1:{node.port}"
    known = {"nats_url": url, "nats_ca": authority.cert}
    bus = await bus_of(**known, nats_cert=ours.cert, nats_key=ours.key)
    await bus.api("INFO")
    await bus.stop()
    await refused("wants a certificate.*CRONLEDGER_NATS_CERT", **known)
    stranger = Authority(tmp_path / "stranger")
    await refused("not trusted: .*CRONLEDGER_NATS_CA", nats_url=url, nats_ca=stranger.cert)
    await refused("not trusted: .*CRONLEDGER_NATS_CA", nats_url=url)
    # What is not asked for in the address, the server may want: the same trust is needed.
    await refused("not trusted", nats_url=node.url, nats_ca=stranger.cert)
    with pytest.raises(NatsSettingsError, match="without a password on it"):  # and nobody is asked for it
        part_of(**known, nats_cert=ours.cert, nats_key=ours.locked_key)


async def test_no_password_is_sent_to_a_server_without_tls_when_tls_is_meant(start: Start) -> None:
    heard = bytearray()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps({"version": "2.12.0", "max_payload": 1 << 20}).encode() + b"\r\n")
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await refused("offers no TLS", nats_url=f"tls://me:{QUOTED}@127.0.0.1:{port}")
    assert not heard


async def test_a_server_that_may_do_tls_does_it_when_it_is_asked_for(
    start: Start, authority: Authority
) -> None:
    server = authority.issue("server")
    node = start(f'tls {{ cert_file: "{server.cert}", key_file: "{server.key}" }}\nallow_non_tls: true')
    bus = await bus_of(nats_url=f"tls://127.0.0.1:{node.port}", nats_ca=authority.cert)
    assert bus.client._transport is not None
    assert bus.client._transport._io_writer.get_extra_info("ssl_object") is not None  # type: ignore[attr-defined]
    await bus.stop()


# --- what is fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (b'{"version": "2.9.10", "max_payload": 1048576}', r"nats-server 2\.9\.10 is too old; 2\.12"),
        (b'{"version": "2.12.1", "max_payload": 1024}', "max_payload is 1024 bytes"),
        (b'{"max_payload": 1048576}', "nats-server 0 is too old"),
        (b"{", "is no nats-server"),
    ],
)
async def test_a_server_that_can_not_do_it_is_refused(info: bytes, text: str) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + info + b"\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(tell, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await refused(text, nats_url=f"nats://me:{QUOTED}@127.0.0.1:{port}")


async def test_who_never_speaks_is_given_up(start: Start) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(wait, "127.0.0.1", 0) as server, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        await refused("no answer within 2 s", nats_url=f"nats://127.0.0.1:{port}")


async def test_of_each_server_it_is_told_why() -> None:
    told = await refused(
        "NATS at nats://127.0.0.1:1: nobody listens there",
        nats_url="nats://127.0.0.1:1,nats://nowhere.invalid",
    )
    assert "NATS at nats://nowhere.invalid:4222: " in told


async def test_one_server_of_several_is_enough(start: Start) -> None:
    bus = await bus_of(nats_url=f"nats://127.0.0.1:1,{start().url}")
    assert bus.connected
    await bus.stop()


async def test_jetstream_must_be_on(start: Start) -> None:
    node = start(config=BARE)
    await refused("JetStream is not enabled", nats_url=node.url)


# --- streams that are there --------------------------------------------------------------------------


@pytest.fixture
async def bus(start: Start) -> AsyncIterator[NatsBus]:
    """A connection to a server of its own."""
    made = await bus_of(nats_url=start().url)
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"subjects": ["orders.>"]},
            r"subjects orders\.>: it is somebody else's; set CRONLEDGER_NATS_PREFIX",
        ),
        ({"subjects": ["runq.>"]}, "has retention 'limits' where 'workqueue' is needed"),
        ({"subjects": ["runq.>"], "retention": "workqueue", "storage": "memory"}, "has storage 'memory'"),
        ({"name": "THEIRS", "subjects": ["runq.>"]}, "overlap.*CRONLEDGER_NATS_PREFIX"),
    ],
)
async def test_a_stream_of_somebody_else_is_left_alone(
    bus: NatsBus, config: dict[str, object], text: str
) -> None:
    theirs = {"name": "RUNS", "retention": "workqueue" if "orders.>" in str(config) else "limits", **config}
    made = await bus.api(f"STREAM.CREATE.{theirs['name']}", theirs)
    with pytest.raises(StreamDiffers, match=text):
        await ensure_streams(bus, [RUNS])
    assert (await bus.api(f"STREAM.INFO.{theirs['name']}"))["config"] == made["config"]


async def test_limits_are_raised_and_never_lowered(bus: NatsBus) -> None:
    await ensure_streams(bus, [LEDGER])
    config = (await bus.api(f"STREAM.INFO.{LEDGER.name}"))["config"]
    theirs = {**config, "max_bytes": 4 << 30, "max_age": 10**12, "description": "kept", "allow_atomic": False}
    assert "error" not in await bus.api(f"STREAM.UPDATE.{LEDGER.name}", theirs)
    await ensure_streams(bus, [LEDGER])
    now = (await bus.api(f"STREAM.INFO.{LEDGER.name}"))["config"]
    assert (now["max_bytes"], now["max_age"]) == (4 << 30, int(LEDGER.max_age_s * 1e9))
    assert (now["description"], now["allow_atomic"]) == ("kept", True)


async def test_two_installations_with_prefixes_do_not_see_each_other(start: Start) -> None:
    url = start().url
    buses = [await bus_of(nats_url=url, nats_prefix=prefix) for prefix in ("", "blue", "blue_1")]
    heard: list[tuple[int, str]] = []
    for n, bus in enumerate(buses):
        await ensure_streams(bus, STREAMS)

        async def hear(msg: object, n: int = n) -> None:
            heard.append((n, msg.subject))  # type: ignore[attr-defined]

        await bus.subscribe("runs.*.ev", hear)
        await bus.client.flush()
    loops = [PullLoop(bus, RUNS.name, "w", run_queue_subject("default", "normal"), 1) for bus in buses]
    for n, bus in enumerate(buses):
        await loops[n].start()
        await bus.publish("runs.x.ev", str(n).encode())
        await WorkQueue(bus, RUNS.name).put("runq.default.normal.x", str(n).encode())
        async with asyncio.timeout(10):
            assert (await loops[n].next()).data == str(n).encode()
    for bus in buses:
        await bus.client.flush()
        state = (await bus.api(f"STREAM.INFO.{bus.js_stream(RUNEV.name)}"))["state"]
        assert state["messages"] == 1
    assert sorted(heard) == [(n, "runs.x.ev") for n in range(3)]
    for loop, bus in zip(loops, buses, strict=True):
        await loop.stop()
        await bus.stop()


async def test_a_user_with_the_rights_of_the_readme_is_enough(start: Start) -> None:
    """As a shared server would give them: a prefix, the API, inboxes with the prefix."""
    rights = (
        'publish: ["blue.>", "$JS.API.>", "$JS.ACK.>", "_INBOX_blue.>"], '
        'subscribe: ["blue.>", "_INBOX_blue.>", "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.>"]'
    )
    node = start(f"authorization {{ users: [{{ user: me, password: pw, permissions: {{ {rights} }} }}] }}")
    url = f"nats://me:pw@127.0.0.1:{node.port}"
    bus = await bus_of(nats_url=url, nats_prefix="blue")
    await ensure_streams(bus, STREAMS)
    loop = PullLoop(bus, RUNS.name, "w", run_queue_subject("default", "normal"), 1)
    await loop.start()
    await WorkQueue(bus, RUNS.name).put("runq.default.normal.x", b"x")
    async with asyncio.timeout(10):
        assert await (await loop.next()).ack_sync()
    await loop.stop()
    await bus.stop()
    assert bus.client.last_error is None


DOMAIN = CONFIG.replace("jetstream {{ ", "jetstream {{ domain: hub, ")


async def used(bus: NatsBus, replicas: int = 1) -> None:
    """All that rests on what its version can do: batches, direct reads, work with an answer to its end."""
    assert await ensure_streams(bus, STREAMS, replicas) == ()
    batch = [Outgoing(n, f"ledger.a.b.{n}", b"x") for n in (1, 2, 3)]
    assert await OrderedPublisher(bus, LEDGER.name, "ledger.>").publish(batch)
    assert await OrderedPublisher(bus, LEDGER.name, "ledger.>").resync() == (3, 3)
    assert [found.data async for found in Pages(bus, LEDGER.name, "ledger.a.b.2").rest()] == [b"x"]
    loop = PullLoop(bus, RUNS.name, "w", run_queue_subject("default", "normal"), 1)
    await loop.start()
    await WorkQueue(bus, RUNS.name).put("runq.default.normal.x", b"x")
    async with asyncio.timeout(10):
        assert await (await loop.next()).ack_sync()
    await loop.stop()


async def test_the_domain_of_a_server_changes_nothing_for_who_connects_to_it(start: Start) -> None:
    bus = await bus_of(nats_url=start(config=DOMAIN).url)
    await used(bus)
    await bus.stop()


@pytest.mark.parametrize("config", [CONFIG, DOMAIN])
async def test_jetstream_behind_a_leaf_node_is_not_ours(start: Start, config: str) -> None:
    port = free_port()
    start(f'leafnodes {{ listen: "127.0.0.1:{port}" }}', config)
    leaf = start(f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}', BARE)
    await refused("JetStream is not enabled there", nats_url=leaf.url)


# --- of which version it is --------------------------------------------------------------------------

OLDEST, TOO_OLD = "2.12.0", "2.11.11"


@pytest.fixture
def version(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """The server of another version than the bundled one."""
    cache: Any = pytestconfig.cache
    return partial(binary_of, kept=cache.mkdir("nats"))


async def test_the_oldest_version_can_do_all(start: Start, version: Callable[[str], Path]) -> None:
    bus = await bus_of(nats_url=start(binary=version(OLDEST)).url)
    assert bus.info["version"] == OLDEST
    await used(bus)
    await bus.stop()


async def test_an_older_version_is_refused_at_every_connect(
    start: Start, version: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also as one of several, to which the client turns when the others are away."""
    old, new = start(binary=version(TOO_OLD)), start()
    await refused(f"nats-server {TOO_OLD} is too old; 2.12 or newer is needed", nats_url=old.url)
    bus = await bus_of(nats_url=f"{old.url},{new.url}")
    assert bus.info["version"] != TOO_OLD
    new.kill()
    async with asyncio.timeout(20):
        while bus.connected:  # noqa: ASYNC110 - it is another server that tells it
            await asyncio.sleep(0.01)
        caplog.clear()
        while "is too old" not in caplog.text:  # noqa: ASYNC110 - it is another server that tells it
            await asyncio.sleep(0.05)
        for _ in range(50):
            assert not bus.connected
            await asyncio.sleep(0.02)
        assert not bus.client.is_closed
        new.start()
        while not bus.connected:  # noqa: ASYNC110 - it is another server that tells it
            await asyncio.sleep(0.05)
    assert bus.info["version"] != TOO_OLD
    await used(bus)
    await bus.stop()


@pytest.mark.long
async def test_servers_of_several_versions_make_a_cluster(
    tmp_path: Path, version: Callable[[str], Path]
) -> None:
    """As in the middle of an upgrade: a stream is on all of them, whoever leads it."""
    cluster = NatsCluster(tmp_path / "cluster", [version(OLDEST), version(OLDEST), None]).start()
    try:
        part = part_of(nats_url=cluster.url)
        bus = await NatsBus.connect(await part.start(), "test")
        await used(bus, part.replicas)
        for node in cluster.nodes:
            node.kill()
            await until(partial(is_published, bus))
            cluster.start()
        await bus.stop()
    finally:
        cluster.stop()


async def is_published(bus: NatsBus) -> bool:
    """Whether the ledger's next event is on it."""
    publisher = OrderedPublisher(bus, LEDGER.name, "ledger.>")
    position, _ = await publisher.resync()
    return await publisher.publish([Outgoing(position + 1, f"ledger.a.b.{position + 1}", b"x")])
