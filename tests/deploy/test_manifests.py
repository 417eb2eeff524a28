"""What the manifests ask for is there: commands, settings, probes, and the figure that workers are scaled by."""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.__main__ import SERVICES
from services.kit.bus.embedded import find_binary
from services.kit.settings import Settings
from tests.conftest import REPOSITORY, Make
from tests.nats import NatsNode, free_port

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "compose"
UNIT = DEPLOY / "systemd" / "cronledger.service"
ALONE = set(SERVICES) - {"up"}
SETTING = re.compile(r"\bCRONLEDGER_[A-Z_]+\b")


def of_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_every_setting_that_is_named_is_one() -> None:
    places = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    named = {name: str(path) for path in places for name in SETTING.findall(path.read_text())}
    assert len(named) > 10
    assert {name: named[name] for name in Settings.unknown(named)} == {}


# --- compose --------------------------------------------------------------------------------------------


def test_compose_runs_each_service_and_keeps_its_files_from_being_written() -> None:
    services = of_yaml(COMPOSE / "compose.yaml")["services"]
    ours = {name: one for name, one in services.items() if "CRONLEDGER_NATS_URL" in str(one)}
    assert {name: one["command"] for name, one in ours.items()} == {
        name: [name] for name in {*ALONE, "migrate"}
    }
    for one in ours.values():
        assert (one["read_only"], one["cap_drop"], one["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert all("healthcheck" in services[name] for name in ("postgres", "nats"))
    assert services["scheduler"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", ["nats.conf", "nats-cluster.conf"])
def test_nats_takes_its_configuration(name: str) -> None:
    routes = {f"NATS_ROUTE_{n}": f"nats://route:s3cret@n{n}:6222" for n in (1, 2, 3)}
    told = {"NATS_NAME": "n1", "NATS_PASSWORD": "s3cret", **routes}
    command = [str(find_binary()), "--config", str(COMPOSE / name), "-t"]
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=False)
    assert (done.returncode, "is valid" in done.stderr) == (0, True), done.stderr


def test_the_cluster_gives_nats_what_its_configuration_asks_for() -> None:
    asked = set(re.findall(r"\$(\w+)", (COMPOSE / "nats-cluster.conf").read_text()))
    services = of_yaml(COMPOSE / "compose.cluster.yaml")["services"]
    assert [set(one["environment"]) for one in services.values()] == [asked] * 3
    assert {one["environment"]["NATS_NAME"] for one in services.values()} == set(services)


# --- Kubernetes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Those of the base, as `kubectl apply` would have them."""
    spec = importlib.util.spec_from_file_location("manifests", DEPLOY / "manifests.py")
    assert spec is not None
    assert spec.loader is not None
    manifests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manifests)
    if not manifests.builder():
        pytest.skip("neither kustomize nor kubectl is here")
    found: list[dict[str, Any]] = manifests.built("base")
    return found


def deployments(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in objects:
        if one["kind"] == "Deployment":
            yield one["metadata"]["name"], one["spec"]


def test_each_service_has_a_deployment_that_may_lose_a_pod(objects: list[dict[str, Any]]) -> None:
    found = dict(deployments(objects))
    assert set(found) == ALONE
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    for name, spec in found.items():
        assert spec["template"]["spec"]["containers"][0]["args"] == [name]
        assert spec["replicas"] >= 2
        labels = spec["template"]["metadata"]["labels"]
        assert labels == spec["selector"]["matchLabels"]
        assert [one["maxUnavailable"] for one in budgets if one["selector"]["matchLabels"] == labels] == [1]


def test_pods_are_probed_where_they_answer_and_may_do_little(objects: list[dict[str, Any]]) -> None:
    for name, spec in deployments(objects):
        pod = spec["template"]["spec"]
        container = pod["containers"][0]
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert probes["startup"] == probes["liveness"] == {"path": "/live", "port": "health"}
        expected = ("/ok", "http") if name == "gateway" else ("/ready", "health")
        assert (probes["readiness"]["path"], probes["readiness"]["port"]) == expected
        assert {one["name"]: one["containerPort"] for one in container["ports"]}["health"] == 2027
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert {"requests", "limits"} <= set(container["resources"])


def test_secrets_are_named_and_never_in_it(objects: list[dict[str, Any]]) -> None:
    assert not any(one["kind"] == "Secret" for one in objects)
    pods = [one["spec"]["template"]["spec"] for one in objects if one["kind"] in ("Deployment", "Job")]
    settings = next(one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap")
    assert len(pods) == len(ALONE) + 1
    for pod in pods:
        given = pod["containers"][0]["envFrom"]
        assert given == [
            {"configMapRef": {"name": settings}},
            {"secretRef": {"name": "cronledger-secrets"}},
        ]


def test_workers_are_scaled_by_what_waits_and_what_is_at_work(make_server: Make, tmp_path: Path) -> None:
    """Read as KEDA reads it: one message for each run that may run and is not over, whoever has it."""
    trigger = of_yaml(DEPLOY / "kubernetes" / "autoscale" / "workers.yaml")["spec"]["triggers"][0]["metadata"]
    monitor = free_port()
    nats = NatsNode(tmp_path / "nats", f"http: 127.0.0.1:{monitor}").start()
    server = make_server(CRONLEDGER_NATS_URL=nats.url, CRONLEDGER_RUNS_PER_CHILD="2")
    asked = {"acc": trigger["account"], "consumers": "true", "config": "true"}

    def lag() -> int:
        account = httpx.get(f"http://127.0.0.1:{monitor}/jsz", params=asked).json()["account_details"][0]
        stream = next(one for one in account["stream_detail"] if one["name"] == trigger["stream"])
        consumer = next(one for one in stream["consumer_detail"] if one["name"] == trigger["consumer"])
        return int(consumer["num_pending"] + consumer["num_ack_pending"])

    assert lag() == 0
    for _ in range(5):
        httpx.post(f"{server.url}/runs", json={"assistant_id": "counter", "input": {"wait_s": 3}})
    wait_for(lag, 5)
    wait_for(lag, 0)
    server.stop()
    nats.kill()


def wait_for(figure: Any, value: int, within_s: float = 40) -> None:
    until = time.monotonic() + within_s
    while (now := figure()) != value:
        assert time.monotonic() < until, now
        time.sleep(0.1)


# --- systemd --------------------------------------------------------------------------------------------


def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    place, server = tmp_path / "etc/systemd/system", tmp_path / "opt/cronledger/bin/cronledger"
    place.mkdir(parents=True)
    server.parent.mkdir(parents=True)
    shutil.copy(UNIT, place)
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    at = f"--root={tmp_path}"
    verified = analyzed("verify", "--recursive-errors=no", at, UNIT.name)
    ours = [line for line in verified.stderr.splitlines() if f"/{UNIT.name}:" in line]
    assert (verified.returncode, ours) == (0, []), verified.stderr
    # 10 is a service that may do anything.
    assert analyzed("security", "--offline=true", "--threshold=20", at, UNIT.name).returncode == 0


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
