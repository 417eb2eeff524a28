"""The project file: what it may say, and how a mistake in it is told."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.kit.project import ProjectError, load_project


def written(folder: Path, config: dict[str, Any] | str) -> Path:
    (folder / "agent.py").write_text("graph = None\n")
    path = folder / "langgraph.json"
    path.write_text(config if isinstance(config, str) else msgspec.json.encode(config).decode())
    return path


def test_all_forms(tmp_path: Path) -> None:
    (tmp_path / "lib" / "src").mkdir(parents=True)
    (tmp_path / ".env").write_text("# no\nA=1\nexport B='two words'\nC=3 # three\n")
    graphs = {
        "a": "./agent.py:graph",
        "b": "agent.py:graph",
        "c": "package.module:graph",
        "d": {"path": "./agent.py:graph", "description": "the fourth"},
    }
    config = {
        "graphs": graphs,
        "dependencies": ["./lib", ".", "langchain"],
        "env": ".env",
        "python_version": "3.11",
    }
    project = load_project(written(tmp_path, config), tmp_path)
    assert project.graphs["a"].path == project.graphs["b"].path == tmp_path / "agent.py"
    assert (project.graphs["c"].module, project.graphs["c"].path) == ("package.module", None)
    assert project.graphs["d"].description == "the fourth"
    assert project.roots == (tmp_path / "lib", tmp_path / "lib" / "src", tmp_path)
    assert project.env == {"A": "1", "B": "two words", "C": "3"}
    assert any("python_version" in notice for notice in project.notices)


def test_found_by_name_and_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRONLEDGER_CONFIG", raising=False)
    path = written(tmp_path, {"graphs": {"a": "./agent.py:graph"}})
    assert load_project(None, tmp_path).file == path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ProjectError, match="--config"):
        load_project(None, elsewhere)
    monkeypatch.setenv("CRONLEDGER_CONFIG", str(path))
    assert load_project(None, elsewhere).folder == tmp_path


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("{", "langgraph.json"),
        ("[]", "object"),
        ({}, "graphs"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"a": "./agent.py"}}, "names no variable"),
        ({"graphs": {"a": 5}}, "graphs.a"),
        ({"graphs": {"a": "./missing.py:graph"}}, "not there"),
        ({"graphs": {"a": "./agent.ts:graph"}}, "JavaScript"),
        ({"graphs": {"a b": "./agent.py:graph"}}, "a b"),
        ({"graphs": {"a": "./agent.py:graph"}, "dependencies": ["./nowhere"]}, "nowhere"),
        ({"graphs": {"a": "./agent.py:graph"}, "env": "nowhere.env"}, "nowhere.env"),
        ({"graphs": {"a": "./agent.py:graph"}, "auth": {"path": "./auth.py:auth"}}, "auth"),
        ({"graphs": {"a": "./agent.py:graph"}, "http": {"app": "./app.py:app"}}, "http"),
        ({"graphs": {"a": "./agent.py:graph"}, "webhooks": {"url": {}}}, "webhooks"),
    ],
)
def test_mistakes_are_told_with_file_and_key(tmp_path: Path, config: Any, word: str) -> None:
    with pytest.raises(ProjectError, match=word):
        load_project(written(tmp_path, config), tmp_path)
