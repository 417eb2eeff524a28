"""Builds images without an engine: the lines of a Dockerfile are run as they are, in folders that begin empty.

What `python:...-slim` has, this machine has: its programs, read-only, and the interpreter of the tests at /usr/local.
Only root can do so, because folders are mounted and entered.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

MACHINE = ("bin", "lib", "lib32", "lib64", "sbin", "usr")
OWN = ("data", "dev", "etc", "home", "opt", "proc", "root", "run", "tmp", "var/tmp")
PYTHON = Path(sys.base_prefix)
PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
PASSED = re.compile(r"PIP_|.*_CERT|.*_CA_|SSL_|.*_proxy$", re.IGNORECASE)
"""How this machine reaches its registry of packages."""
KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "VOLUME")


@dataclass(frozen=True)
class Image:
    """A folder with the files of an image, and what its Dockerfile says of a process in it."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0:0"
    folder: str = "/"

    def command(self, arguments: Sequence[str], *, writable: Sequence[str] = (), **given: str) -> list[str]:
        """A command that runs these in it, with nothing that can be written but those folders."""
        environment = {**_passed(), **self.environment, **given}
        # Its folders are mounted for this process alone, and are gone with it.
        return [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f"{_mounts(self.root)}\n{_sealed(self.root, writable) if writable else ''}\n"
            'exec chroot "--userspec=$0" "$@"',
            self.user,
            str(self.root),
            "env",
            "--ignore-environment",
            f"--chdir={self.folder}",
            *(f"{name}={value}" for name, value in environment.items()),
            *arguments,
        ]


def build(dockerfile: Path, context: Path, images: Mapping[str, Image], into: Path) -> Image:
    """The image of its last stage. `images` are those that a FROM may name beside `python:...`."""
    ignored = _ignored(context)
    stages: dict[str, Image] = {}
    arguments: dict[str, str] = {}
    image = Image(into)
    for word, rest in instructions(dockerfile.read_text()):
        match word:
            case "ARG":
                name, _, value = rest.partition("=")
                arguments.setdefault(name, value)
            case "FROM":
                source, _, name = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest).partition(" AS ")
                image = _begun(images.get(source), into / f"stage{len(stages)}")
                stages[name or str(len(stages))] = image
            case "RUN":
                subprocess.run(image.command(["sh", "-c", rest]), check=True, timeout=600)
            case "COPY":
                _copy(rest, image, stages, context, ignored)
            case "WORKDIR":
                image = replace(image, folder=rest)
                (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV":
                told = dict(part.split("=", 1) for part in shlex.split(rest))
                told = {
                    name: value.replace("$PATH", image.environment["PATH"]) for name, value in told.items()
                }
                image = replace(image, environment={**image.environment, **told})
            case "USER":
                image = replace(image, user=rest)
            case _:
                assert word in KNOWN, word
        stages = {name: image if one.root == image.root else one for name, one in stages.items()}
    return image


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction and the rest of its line, which may go on in others."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            word, rest = line.split(None, 1)
            yield word, rest.strip()


def _begun(parent: Image | None, root: Path) -> Image:
    root.parent.mkdir(parents=True, exist_ok=True)
    if parent is not None:
        subprocess.run(["cp", "-a", parent.root, root], check=True)
        return replace(parent, root=root)
    root.mkdir()
    for name in (*MACHINE, *OWN):
        if (Path("/") / name).exists() or name in OWN:
            (root / name).mkdir(parents=True, exist_ok=True)
    (root / str(PYTHON).lstrip("/")).mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "/etc/.", root / "etc"], check=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    return Image(root)


def _copy(rest: str, image: Image, stages: Mapping[str, Image], context: Path, ignored: list[str]) -> None:
    *sources, to = [part for part in rest.split() if not part.startswith("--")]
    target = image.root / os.path.join(image.folder, to).lstrip("/")
    if "--from=" in rest:
        other = stages[rest.split("--from=")[1].split()[0]]
        subprocess.run(["cp", "-a", other.root / sources[0].lstrip("/"), target], check=True)
        return
    for source in sources:
        start = context / source
        for path in [start] if start.is_file() else _files(start, context, ignored):
            place = target / (path.name if start.is_file() else path.relative_to(start))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def _files(start: Path, context: Path, ignored: list[str]) -> Iterator[Path]:
    """Those that are sent to whoever builds."""
    for folder, inner, names in os.walk(start):
        below = Path(folder).relative_to(context)
        inner[:] = [
            name
            for name in inner
            if not _is_ignored(below / name, ignored)
            or any(pattern.startswith(f"!{below / name}/") for pattern in ignored)
        ]
        yield from (Path(folder) / name for name in names if not _is_ignored(below / name, ignored))


def _ignored(context: Path) -> list[str]:
    lines = (context / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _is_ignored(path: Path, patterns: list[str]) -> bool:
    """Whether the last pattern that it, or a folder of it, meets takes it out."""
    is_out = False
    for pattern in patterns:
        shape = re.escape(pattern.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(shape, str(part)) for part in (path, *path.parents)):
            is_out = not pattern.startswith("!")
    return is_out


def _mounts(root: Path) -> str:
    """Mount the programs and the interpreter of the machine, to be read there."""
    binds = [(f"/{name}", f"{root}/{name}") for name in MACHINE if Path(f"/{name}").is_dir()]
    binds += [(str(PYTHON), f"{root}{PYTHON}"), (str(PYTHON), f"{root}/usr/local")]
    lines = ["mount --make-rprivate /"]
    for source, target in binds:
        lines += [f"mount --bind {source} {target}", f"mount -o remount,bind,ro {target}"]
    return "\n".join([*lines, f"mount --rbind /proc {root}/proc", f"mount --rbind /dev {root}/dev"])


def _sealed(root: Path, writable: Sequence[str]) -> str:
    """A root that can only be read, with empty folders in memory that can be written."""
    # Bound onto itself without what was mounted into it, so that only the files of the image become read-only.
    lines = [f"mount --rbind {root} {root}", f"mount -o remount,bind,ro {root}"]
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}{folder}" for folder in writable]
    return "\n".join(lines)


def _passed() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if PASSED.match(name)}
