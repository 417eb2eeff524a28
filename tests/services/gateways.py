"""The gateway's parts over the edges of a test."""

from typing import Any

from services.gateway.parts import GatewayParts
from services.kit.clock import SystemClock
from services.kit.eventlog import EventLog
from services.kit.settings import Settings
from services.kit.views import Views
from services.projector.projector import Projector


def gateway_parts(log: EventLog, views: Views, projector: Projector, **given: Any) -> GatewayParts:
    """As a server has them, without a bus; `given` are fields that are to be others."""
    usual: dict[str, Any] = {
        "reached": projector.reached,
        "changed": projector.changed,
        "clock": SystemClock(),
        "settings": Settings(),
        "bus": None,
        "health": dict,
        "version": "0",
        "graphs": ("agent",),
    }
    return GatewayParts(log=log, views=views, **usual | given)
