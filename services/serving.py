"""The gateway of a process: its application, the project's own beside it, and where both are."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.custom.process import CustomApp
from services.custom.proxy import Proxy
from services.gateway.app import GatewayParts, build_app, paths_of
from services.gateway.mount import Mounted
from services.gateway.registry import RegisteredGraphs
from services.gateway.server import GatewayServer
from services.ground import Ground
from services.kit.lifecycle import Part, Step, health, notices
from services.kit.project import Project


class Serving:
    """What answers HTTP. `whole` are the parts of the process, whose health it tells.

    The graphs of its project can be asked for, and those that workers of any have registered.
    """

    def __init__(self, ground: Ground, project: Project, whole: Sequence[Part]) -> None:
        registered = RegisteredGraphs(ground.log, ground.views, ground.clock, tuple(project.graphs))
        self.parts: list[Part] = [registered]
        self._host, self._prefix = ground.settings.host, project.http.mount_prefix
        custom = None
        if project.http.app is not None:
            python = Path(ground.settings.graph_python or sys.executable)
            custom = CustomApp(project, python, lambda: self.url)
        shared = GatewayParts(
            log=ground.log,
            views=ground.views,
            reached=ground.reached,
            changed=ground.changed,
            clock=ground.clock,
            settings=ground.settings,
            bus=ground.bus,
            health=lambda: health(whole),
            notices=lambda: notices(whole),
            version=version("cronledger"),
            graphs=registered,
            pool_of=registered.pool_of,
            webhooks=project.webhooks,
            http=project.http,
            beside=lambda: None if custom is None else custom.announced.openapi,
        )
        app: Any = build_app(shared)
        if custom is not None:
            app = Proxy(app, custom, paths_of(app))
            self.parts += [custom, app]
        if self._prefix:
            app = Mounted(app, self._prefix)
        self._server = GatewayServer(app, self._host, ground.settings.port)
        # What requests share is stopped first: streams end before the server waits for them.
        self.parts += [self._server, shared]
        self.bound = Step("gateway.address", self._server.bind, self._server.release)
        """Before anything takes long: a port that is taken is said at once."""

    @property
    def address(self) -> str:
        """Where it is, as it is told to whoever started it."""
        return f"http://{self._host}:{self._server.port}{self._prefix}"

    @property
    def url(self) -> str:
        """Where processes of this machine reach it."""
        return self._server.url + self._prefix
