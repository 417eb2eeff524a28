"""Where a webhook may go: the rules for a URL, and for each address that its name resolves to. Pure."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urljoin, urlsplit

import msgspec

from contracts.webhooks import UrlPolicy
from domain.errors import InvalidField

Address = IPv4Address | IPv6Address
PORTS = {"http": 80, "https": 443}
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
PRINTABLE = re.compile(r"[\x21-\x7e]+")
NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A name that ends so is an address to resolvers, in a form that this module would have to guess."""
LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "host.docker.internal"})
METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.amazonaws.com", "instance-data"}
)
CLUSTER = ".svc.cluster.local"
LOOPBACK = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
PRIVATE = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254"))
)
RESERVED = {
    ip_network(network): why
    for network, why in {
        "0.0.0.0/8": "this host",
        "169.254.0.0/16": "link-local",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "a relay of other addresses",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        # Each of these has an IPv4 address inside, which some router or kernel would connect to.
        "::/96": "an IPv4 address in another form",
        "::ffff:0:0/96": "an IPv4 address in another form",
        "::ffff:0:0:0/96": "an IPv4 address in another form",
        "64:ff9b::/96": "an IPv4 address in another form",
        "64:ff9b:1::/48": "an IPv4 address in another form",
        "2001::/32": "an IPv4 address in another form",
        "2002::/16": "an IPv4 address in another form",
        "100::/64": "a hole",
        "2001:db8::/32": "for documentation",
        "3fff::/20": "for documentation",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
    }.items()
}


class Destination(msgspec.Struct, frozen=True):
    """A URL that is allowed as far as it tells by itself; the addresses of `host` are still to be checked.

    `host` is in lower case and without brackets, `target` the path with its query.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host as it stands in a `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def hop(self, location: str) -> str:
        """The URL to which a redirect from here leads. Raises InvalidField."""
        if not PRINTABLE.fullmatch(location) or "\\" in location:  # joining would drop some of it silently
            raise _refused("it redirects to what is no URL in printable ASCII")
        try:
            return urljoin(f"{self.scheme}://{self.authority}{self.target}", location)
        except ValueError:
            raise _refused("it redirects to what can't be read") from None

    @property
    def origin(self) -> tuple[str, str, int]:
        """What must be the same for headers that are meant for one receiver."""
        return self.scheme, self.host, self.port


def destination_of(url: str, policy: UrlPolicy) -> Destination:
    """What the URL names. Raises InvalidField with the reason; it never repeats what may be a secret."""
    if len(url) > policy.max_url_length:
        raise _refused(f"at most {policy.max_url_length} characters are allowed")
    if not PRINTABLE.fullmatch(url) or "\\" in url:
        raise _refused(
            "must be a URL in printable ASCII without blanks and backslashes; write other names in punycode"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise _refused("host or port can't be read") from None
    if parts.scheme not in PORTS:
        raise _refused("must begin with http:// or https://; a path alone is no address")
    if policy.require_https and parts.scheme != "https":
        raise _refused("must begin with https://")
    if "@" in parts.netloc:
        raise _refused("user and password don't belong into a URL")
    if "#" in url:
        raise _refused("a fragment (#) is never sent")
    if not host or parts.netloc.endswith(":"):
        raise _refused("names no host, or no port behind its colon")
    if port == 0:
        raise _refused("port 0 can't be connected to")
    found = Destination(parts.scheme, host, port or PORTS[parts.scheme], _target(parts.path, parts.query))
    _check_host(found, policy, in_brackets="[" in parts.netloc)
    return found


def host_of(url: str) -> str:
    """The host of a URL that was allowed once; '' when there is none."""
    return urlsplit(url).hostname or ""


def literal_of(host: str) -> Address | None:
    """The address that the host is, if it is one and no name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_vouched_for(host: str, policy: UrlPolicy) -> bool:
    """Whether the project names this very host, so that its addresses are the project's affair."""
    return host in policy.allowed_domains


def check_address(address: Address, policy: UrlPolicy) -> None:
    """Refuse an address that no webhook may reach. Raises InvalidField."""
    if any(address in network for network in LOOPBACK):
        if policy.disable_loopback:
            raise _refused(f"{address} is this machine (loopback)")
        return
    if address in METADATA:
        raise _refused(f"{address} is a cloud's metadata service")
    for network, why in RESERVED.items():
        if address in network:
            raise _refused(f"{address} is {why}")
    if policy.disable_private_ips and any(address in network for network in PRIVATE):
        raise _refused(f"{address} is private")


def _check_host(found: Destination, policy: UrlPolicy, *, in_brackets: bool) -> None:
    if policy.allowed_ports and found.port not in policy.allowed_ports:
        raise _refused(f"port {found.port} is not one of those that are allowed")
    if policy.allowed_domains and not any(_covers(entry, found.host) for entry in policy.allowed_domains):
        raise _refused("its host is not one of those that are allowed")
    if is_vouched_for(found.host, policy):
        return
    if "%" in found.host:
        raise _refused("a host has no % in it, and an address no zone")
    address = literal_of(found.host)
    if in_brackets != isinstance(address, IPv6Address):
        raise _refused("only an IPv6 address stands in brackets")
    if address is not None:
        check_address(address, policy)
        return
    labels = found.host.split(".")
    if labels[-1] == "":
        raise _refused("its host ends in a dot")
    if NUMERIC.fullmatch(labels[-1]):
        raise _refused(
            "its host is a number; write an IPv4 address as four decimal numbers without leading zeros"
        )
    if len(found.host) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise _refused("its host is no name of the domain system")
    if policy.disable_loopback and (found.host in LOCAL_NAMES or labels[-1] == "localhost"):
        raise _refused(f"{found.host} is this machine (loopback)")
    if found.host in METADATA_NAMES:
        raise _refused(f"{found.host} is a cloud's metadata service")
    if found.host.endswith(CLUSTER):
        raise _refused(f"names that end in {CLUSTER} are inside a cluster")


def _covers(entry: str, host: str) -> bool:
    return host.endswith(entry[1:]) and host != entry[2:] if entry.startswith("*.") else host == entry


def _target(path: str, query: str) -> str:
    return (path or "/") + (f"?{query}" if query else "")


def _refused(why: str) -> InvalidField:
    return InvalidField(f"webhook: {why}")
