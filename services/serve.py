"""`cronledger up` and each service by itself: `gateway`, `scheduler`, `relay`, `projector`, `worker`, `sender`."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from services.gateway.server import GatewayServer
from services.ground import Ground, ground_of
from services.kit.lifecycle import Part, Whole
from services.kit.logs import Log
from services.kit.probes import Probes
from services.kit.process import run
from services.kit.project import VARIABLE, Project, load_project, without_project
from services.kit.settings import Settings
from services.roles import projecting, relaying, scheduling, sending, working
from services.serving import Serving
from services.up import Embedded
from services.worker.worker import Worker

log_ = Log("up")
Runner = Callable[[Coroutine[Any, Any, None]], None]


def serve(args: argparse.Namespace) -> None:
    """Run until a signal comes. Raises Mendable, PartEnded, and what edges raise."""
    given: dict[str, Any] = {
        "data": str(args.data),
        "host": getattr(args, "host", None),
        "port": getattr(args, "port", None),
    }
    settings = Settings.read(**given)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s"
    )
    for name, nearest in Settings.unknown().items():
        log_.warning("settings.unknown", variable=name, nearest=nearest)
    whole, ready = _made(args.service, settings, args)
    if settings.health_port:
        # First, and so stopped last: it tells what a start or an end waits for.
        whole.parts.insert(0, _health_port(whole, settings))
    try:
        import uvloop

        runner: Runner = uvloop.run
    except ImportError:
        runner = asyncio.run
    # A thread that computes hands over after 1 ms, not 5: firings and requests share one interpreter.
    sys.setswitchinterval(0.001)
    runner(run(whole, ready))


def _health_port(whole: Whole, settings: Settings) -> Part:
    """Where the process tells of itself, whatever service it is."""
    chosen_by = "CRONLEDGER_HOST and CRONLEDGER_HEALTH_PORT"
    return GatewayServer(Probes([whole]), settings.host, settings.health_port, "health", chosen_by)


def _made(service: str, settings: Settings, args: argparse.Namespace) -> tuple[Whole, Callable[[], str]]:
    """The parts of the process, and what it says when they are there."""
    if service == "up" and not settings.database_url:
        server = Embedded(settings, _project(args))
        return server, lambda: f"cronledger is ready on {server.serving.address}"
    ground = ground_of(settings, service)
    whole = Whole(service)
    whole.parts += ground.parts
    if service not in ("up", "projector"):
        whole.parts.append(ground.shown)
    if service == "gateway":
        serving = Serving(ground, _project(args, is_needed=False), [whole])
        whole.parts = [serving.bound, *whole.parts, *serving.parts]
        return whole, lambda: f"gateway is ready on {serving.address}"
    if service == "up":
        project = _project(args)
        serving = Serving(ground, project, [whole])
        whole.parts = [serving.bound, *whole.parts, *projecting(ground), ground.shown, *relaying(ground)]
        whole.parts += working(ground, project, lambda: serving.url)
        whole.parts += [*scheduling(ground), *sending(ground, project), *serving.parts]
        return whole, lambda: f"cronledger is ready on {serving.address}"
    role = _role(service, ground, args)
    whole.parts += role
    return whole, lambda: " ".join(
        [service, *(part.id for part in role if isinstance(part, Worker)), "is ready"]
    )


def _role(service: str, ground: Ground, args: argparse.Namespace) -> list[Part]:
    if service == "worker":
        return working(ground, _project(args))
    if service == "sender":
        return sending(ground, _project(args, is_needed=False))
    roles = {"scheduler": scheduling, "relay": relaying, "projector": projecting}
    return roles[service](ground)


def _project(args: argparse.Namespace, *, is_needed: bool = True) -> Project:
    """That of the file; one that is not needed counts only when it is named."""
    if not is_needed and args.config is None and VARIABLE not in os.environ:
        return without_project(Path.cwd())
    project = load_project(args.config, Path.cwd())
    for notice in project.notices:
        log_.warning("project.notice", notice=notice)
    return project
