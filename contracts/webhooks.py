"""What the project says of webhooks: where they may go, what they carry."""

import msgspec

MOST_URL = 4096
PLAIN_FIELDS = (
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "status",
    "run_started_at",
    "run_ended_at",
    "webhook_sent_at",
    "values",
    "error",
)
"""Keys of the body that can be chosen by `allowed_fields`."""


class UrlPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Where a webhook may go. An exact entry of `allowed_domains` vouches for its addresses, `*.example.com` does
    not; without entries every domain is allowed, without `allowed_ports` every port.
    """

    require_https: bool = False
    allowed_domains: tuple[str, ...] = ()
    allowed_ports: tuple[int, ...] = ()
    max_url_length: int = MOST_URL
    disable_loopback: bool = True
    disable_private_ips: bool = False


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`headers` go with every delivery; `allowed_fields` None = the whole body."""

    url: UrlPolicy = UrlPolicy()
    headers: dict[str, str] = {}
    allowed_fields: tuple[str, ...] | None = None
    enabled: bool = True
