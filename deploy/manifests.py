"""Checks what is in this folder for Kubernetes: it is built as `kubectl apply --kustomize` does, and each object looked at.

Without a kustomize on this machine the files are looked at as they are, and that is said.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parent / "kubernetes"
BUILT = ("base", "example")
OF_OTHERS = {"ScaledObject"}
"""Kinds that Kubernetes gets from elsewhere; a test reads what they ask for off a running server."""


def builder() -> list[str]:
    """The command that builds a folder, empty when there is none here."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else []


def built(name: str) -> list[dict[str, Any]]:
    """The objects of that folder. Raises CalledProcessError."""
    done = subprocess.run([*builder(), str(ROOT / name)], check=True, stdout=subprocess.PIPE)
    return list(yaml.safe_load_all(done.stdout))


def as_they_are() -> Iterator[dict[str, Any]]:
    """The objects of the files that are listed as resources, without their patches. Raises OSError."""
    for path in ROOT.glob("*/kustomization.yaml"):
        for listed in yaml.safe_load(path.read_text())["resources"]:
            if listed.endswith(".yaml"):
                yield from yaml.safe_load_all((path.parent / listed).read_text())


def wrong(thing: dict[str, Any]) -> str:
    """Why it is no object of its kind, '' when it is one."""
    if thing["kind"] in OF_OTHERS:
        return ""
    try:
        kubernetes_validate.validate(thing, "1.37", strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as exc:
        return f"{thing['kind']} {thing['metadata']['name']}: {getattr(exc, 'message', exc)}"
    return ""


def main() -> int:
    """Say what is wrong; 1 when anything is."""
    things = [thing for name in BUILT for thing in built(name)] if builder() else list(as_they_are())
    how = "built by kustomize" if builder() else "as they are: no kubectl here to build them"
    told = [why for why in map(wrong, things) if why]
    sys.stdout.write("\n".join([*told, f"{len(things)} objects {how}, {len(told)} of them wrong"]) + "\n")
    return 1 if told or not things else 0


if __name__ == "__main__":
    sys.exit(main())
