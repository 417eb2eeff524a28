"""One POST to a receiver: every hop is resolved, checked, and connected to at the address that was checked."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from contracts.webhooks import UrlPolicy
from domain.errors import InvalidField
from domain.webhook import Address, Destination
from services.destinations import resolved

MOST_HOPS = 5
CONNECT_S = 5.0
ANSWER_S = 30.0
"""From the first byte sent to the status of the last hop; what a receiver says beyond it is not read."""
KEPT = frozenset({301, 302, 307, 308})
"""Redirects after which the same is posted again. After 303 a client would GET: that tells nobody anything."""


class Reply(msgspec.Struct, frozen=True):
    """What a receiver said: the status of HTTP, or None and why there is none.

    `refused`: the policy forbids where it leads, so that another attempt would come to the same.
    """

    status: int | None
    why: str = ""
    retry_after: timedelta | None = None
    refused: bool = False


class Post:
    """Posts to receivers; a part holds it for its life."""

    def __init__(self, policy: UrlPolicy, headers: Mapping[str, str], agent: str) -> None:
        """`headers` are for the receiver that is named, and go to no other that it redirects to."""
        self._policy, self._headers = policy, dict(headers)
        self._common = {"content-type": "application/json", "user-agent": agent}
        self._context = httpx.create_ssl_context()

    async def send(self, url: str, body: bytes, signed: Mapping[str, str]) -> Reply:
        """What came of it. Raises nothing of what a receiver or a network can do."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._followed(url, body, signed)
        except InvalidField as exc:
            return Reply(
                None, str(exc).removeprefix("webhook: "), refused="can't be resolved" not in str(exc)
            )
        except TimeoutError:
            return Reply(None, f"no answer within {ANSWER_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            return Reply(None, f"{type(exc).__name__}: {exc}"[:300])

    async def _followed(self, url: str, body: bytes, signed: Mapping[str, str]) -> Reply:
        first: Destination | None = None
        for _ in range(MOST_HOPS + 1):
            found, addresses = await resolved(url, self._policy)
            first = first or found
            own = self._headers if found.origin == first.origin else {}
            status, headers = await self._hop(found, addresses[0], body, {**own, **self._common, **signed})
            if status not in KEPT or "location" not in headers:
                return Reply(status, _why(status), _retry_after(headers.get("retry-after")))
            url = found.hop(headers["location"])
        return Reply(None, f"more than {MOST_HOPS} redirects", refused=True)

    async def _hop(
        self, found: Destination, address: Address, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, httpx.Headers]:
        """One request to that very address; name and certificate are those of the host."""
        host = f"[{address}]" if address.version == 6 else str(address)
        request = httpx.Request(
            "POST",
            f"{found.scheme}://{host}:{found.port}{found.target}",
            content=body,
            headers={**headers, "host": found.authority},
            extensions={
                "sni_hostname": found.host,
                "timeout": httpx.Timeout(ANSWER_S, connect=CONNECT_S).as_dict(),
            },
        )
        # A transport for each: connections are not kept, because the next attempt resolves and checks anew. No
        # client around it: it would look for proxies, which resolve names themselves, and prepare redirects.
        async with httpx.AsyncHTTPTransport(verify=self._context, trust_env=False) as transport:
            answer = await transport.handle_async_request(request)
            try:
                return answer.status_code, answer.headers
            finally:
                await answer.aclose()


def _why(status: int) -> str:
    if status < 300:
        return ""
    return (
        f"it redirects with {status}, after which nothing is posted" if status < 400 else f"it said {status}"
    )


def _retry_after(text: str | None) -> timedelta | None:
    """What the header asks for: seconds, or an instant."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 10**8))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(timedelta(), (until if until.tzinfo else until.replace(tzinfo=UTC)) - datetime.now(UTC))
