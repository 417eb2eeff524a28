"""Where a webhook may go."""

import pytest

from contracts.webhooks import UrlPolicy
from domain.errors import InvalidField
from domain.webhook import check_address, destination_of, literal_of

HOSTILE = [
    # numbers that resolvers take for an address
    ("http://2130706433/", "number"),
    ("http://0x7f000001/", "number"),
    ("http://0x7f.1/", "number"),
    ("http://017700000001/", "number"),
    ("http://0177.0.0.1/", "number"),
    ("http://127.1/", "number"),
    ("http://127.0.1/", "number"),
    ("http://127.0.0.01/", "number"),
    ("http://1.2.3.4.5/", "number"),
    ("http://a.b.0x/", "number"),
    # this machine
    ("http://127.0.0.1/", "loopback"),
    ("http://127.8.8.8:8080/x", "loopback"),
    ("http://[::1]/", "loopback"),
    ("http://localhost/", "loopback"),
    ("http://LOCALHOST:80/", "loopback"),
    ("http://localhost.localdomain/", "loopback"),
    ("http://host.docker.internal/", "loopback"),
    ("http://a.localhost/", "loopback"),
    ("http://0.0.0.0/", "this host"),
    ("http://0.1.2.3/", "this host"),
    # IPv4 inside of IPv6
    ("http://[::ffff:127.0.0.1]/", "another form"),
    ("http://[::ffff:7f00:1]/", "another form"),
    ("http://[::ffff:169.254.169.254]/", "another form"),
    ("http://[::127.0.0.1]/", "another form"),
    ("http://[::]/", "another form"),
    ("http://[64:ff9b::7f00:1]/", "another form"),
    ("http://[64:ff9b:1::1]/", "another form"),
    ("http://[2002:7f00:1::]/", "another form"),
    ("http://[2001:0:7f00:1::]/", "another form"),
    ("http://[::ffff:0:7f00:1]/", "another form"),
    # link-local, zones, reserved
    ("http://169.254.1.1/", "link-local"),
    ("http://[fe80::1]/", "link-local"),
    ("http://[fe80::1%25eth0]/", "zone"),
    ("http://[fe80::1%eth0]/", "zone"),
    ("http://[fec0::1]/", "site-local"),
    ("http://[ff02::1]/", "multicast"),
    ("http://224.0.0.1/", "multicast"),
    ("http://240.0.0.1/", "reserved"),
    ("http://255.255.255.255/", "reserved"),
    ("http://192.0.0.1/", "reserved"),
    ("http://192.0.2.1/", "documentation"),
    ("http://198.51.100.7/", "documentation"),
    ("http://203.0.113.7/", "documentation"),
    ("http://[2001:db8::1]/", "documentation"),
    ("http://198.18.0.1/", "benchmarks"),
    # metadata services
    ("http://169.254.169.254/latest/meta-data/", "metadata"),
    ("http://169.254.170.2/", "metadata"),
    ("http://100.100.100.200/", "metadata"),
    ("http://[fd00:ec2::254]/", "metadata"),
    ("http://metadata/", "metadata"),
    ("http://metadata.google.internal/", "metadata"),
    ("http://METADATA.google.internal/", "metadata"),
    ("http://metadata.amazonaws.com/", "metadata"),
    ("http://instance-data/", "metadata"),
    ("http://api.default.svc.cluster.local/", "cluster"),
    # what one reader takes for the host and another one does not
    ("http://example.com@169.254.169.254/", "user and password"),
    ("http://user:pass@example.com/", "user and password"),
    ("http://@example.com/", "user and password"),
    ("http://169.254.169.254#@example.com/", "fragment"),
    ("http://example.com/#x", "fragment"),
    ("http://example.com/#", "fragment"),
    ("http://example.com\\@169.254.169.254/", "backslash"),
    ("http://example.com/a b", "blanks"),
    ("http://example.com/\r\nX-Injected: 1", "blanks"),
    ("http://exa\tmple.com/", "blanks"),
    (" http://example.com/", "blanks"),
    ("http://exämple.com/", "punycode"),
    ("http://ⓔxample.com/", "punycode"),
    ("http://127。0。0。1/", "punycode"),
    ("http://example.com./", "dot"),
    ("http://127.0.0.1./", "dot"),
    ("http://localhost./", "dot"),
    ("http://..example.com/", "domain system"),
    ("http://-example.com/", "domain system"),
    ("http://exa%6dple.com/", "%"),
    ("http://a,b.example.com/", "domain system"),
    ("http://" + "a" * 64 + ".com/", "domain system"),
    ("http://[::1/", "can't be read"),
    ("http://[example.com]/", ""),
    ("http://[127.0.0.1]/", ""),
    # ports
    ("http://example.com:0/", "port 0"),
    ("http://example.com:65536/", "port"),
    ("http://example.com:-1/", "port"),
    ("http://example.com:8o/", "port"),
    ("http://example.com:/", "port"),
    # other schemes, none at all
    ("ftp://example.com/", "http://"),
    ("file:///etc/passwd", "http://"),
    ("gopher://example.com/", "http://"),
    ("javascript:alert(1)", "http://"),
    ("/runs", "http://"),
    ("//example.com/", "http://"),
    ("example.com", "http://"),
    ("http:example.com", "host"),
    ("http:///path", "host"),
    ("http://", "host"),
    ("", ""),
    ("http://example.com/" + "a" * 4096, "characters"),
]
"""URL -> what the refusal speaks of. Used again for redirects."""


@pytest.mark.parametrize(("url", "why"), HOSTILE)
def test_a_hostile_url_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(InvalidField, match=r"^webhook: ") as refused:
        destination_of(url, UrlPolicy())
    assert why in str(refused.value)
    assert "pass" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://example.com", "example.com", "/"),
        ("HTTPS://Example.COM/Hook?a=1&b=%20", "example.com", "/Hook?a=1&b=%20"),
        ("http://example.com:80/", "example.com", "/"),
        ("http://example.com:8080/", "example.com:8080", "/"),
        ("https://xn--exmple-cua.com/", "xn--exmple-cua.com", "/"),
        ("http://8.8.8.8/", "8.8.8.8", "/"),
        ("http://10.1.2.3/", "10.1.2.3", "/"),
        ("http://[2606:4700::1111]:8443/", "[2606:4700::1111]:8443", "/"),
        ("http://intranet/hook", "intranet", "/hook"),
    ],
)
def test_an_ordinary_url_is_allowed(url: str, authority: str, target: str) -> None:
    found = destination_of(url, UrlPolicy())
    assert (found.authority, found.target) == (authority, target)


@pytest.mark.parametrize(
    ("url", "policy", "why"),
    [
        ("http://example.com/", UrlPolicy(require_https=True), "https"),
        ("https://example.com:8443/", UrlPolicy(allowed_ports=(443,)), "port 8443"),
        ("https://evil.com/", UrlPolicy(allowed_domains=("example.com",)), "not one of those"),
        ("https://example.com/", UrlPolicy(allowed_domains=("*.example.com",)), "not one of those"),
        ("https://badexample.com/", UrlPolicy(allowed_domains=("*.example.com",)), "not one of those"),
        ("https://10.0.0.1/", UrlPolicy(disable_private_ips=True), "private"),
        ("https://[fc00::1]/", UrlPolicy(disable_private_ips=True), "private"),
        ("https://100.64.0.1/", UrlPolicy(disable_private_ips=True), "private"),
        ("https://example.com/aaaaaaaaaa", UrlPolicy(max_url_length=20), "20 characters"),
    ],
)
def test_a_policy_narrows(url: str, policy: UrlPolicy, why: str) -> None:
    with pytest.raises(InvalidField, match=why):
        destination_of(url, policy)


def test_a_host_that_the_project_names_is_its_own_affair() -> None:
    policy = UrlPolicy(allowed_domains=("localhost", "*.example.com"))
    assert destination_of("http://localhost:9/x", policy).port == 9
    assert destination_of("https://a.b.example.com/", policy).host == "a.b.example.com"


def test_each_address_of_a_name_is_looked_at() -> None:
    for text in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "0.0.0.0"):
        address = literal_of(text)
        assert address is not None
        with pytest.raises(InvalidField):
            check_address(address, UrlPolicy())
    allowed = literal_of("127.0.0.1")
    assert allowed is not None
    check_address(allowed, UrlPolicy(disable_loopback=False))
