"""The project file: what it may say, and how a mistake in it is told."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.kit.project import ProjectError, StoreConfig, load_project


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


def stored(folder: Path, store: Any) -> StoreConfig:
    config = {"graphs": {"a": "./agent.py:graph"}, "store": store}
    return load_project(written(folder, config), folder).store


def test_store_settings(tmp_path: Path) -> None:
    store = stored(
        tmp_path,
        {
            "index": {"dims": 8, "embed": "./agent.py:graph", "fields": ["text", "a.b[*].c"]},
            "ttl": {"refresh_on_read": False, "default_ttl": 60, "sweep_interval_minutes": 0.5},
        },
    )
    embed = f"{tmp_path / 'agent.py'}:graph"
    assert store.index == {"dims": 8, "embed": embed, "fields": ["text", "a.b[*].c"]}
    assert store.ttl == {"refresh_on_read": False, "default_ttl": 60.0, "sweep_interval_minutes": 0.5}


@pytest.mark.parametrize("store", [None, {}, {"index": None, "ttl": None}, {"ttl": {}}])
def test_store_without_settings(tmp_path: Path, store: Any) -> None:
    assert stored(tmp_path, store) == StoreConfig()


@pytest.mark.parametrize(
    "embed", ["openai:text-embedding-3-small", "package.module:embed", "huggingface:org/model", "x:y:0"]
)
def test_embedding_that_is_no_file_stays_as_it_is(tmp_path: Path, embed: str) -> None:
    assert stored(tmp_path, {"index": {"dims": 8, "embed": embed}}).index == {"dims": 8, "embed": embed}


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ([], "store: must be an object"),
        ({"path": "./agent.py:store"}, r"store\.path: .* not supported"),
        ({"scopes": {}}, r"store\.scopes: unknown"),
        ({"index": "yes"}, r"store\.index: Expected"),
        ({"index": {"embed": "a:b"}}, r"store\.index: .*dims"),
        ({"index": {"dims": 8}}, r"store\.index: .*embed"),
        ({"index": {"dims": 0, "embed": "a:b"}}, r"store\.index: .*>= 1.*dims"),
        ({"index": {"dims": 8, "embed": "a:b", "fields": []}}, r"store\.index: .*fields"),
        ({"index": {"dims": 8, "embed": "a:b", "metric": "l2"}}, r"store\.index: .*metric"),
        ({"index": {"dims": 8, "embed": "embed"}}, r"store\.index\.embed: 'embed' must be"),
        ({"index": {"dims": 8, "embed": "./nowhere.py:embed"}}, r"nowhere\.py is not there"),
        ({"ttl": {"default_ttl": 0}}, r"store\.ttl: .*default_ttl"),
        ({"ttl": {"default_ttl": "1h"}}, r"store\.ttl: .*default_ttl"),
        ({"ttl": {"sweep": 1}}, r"store\.ttl: .*sweep"),
    ],
)
def test_mistakes_in_store_settings(tmp_path: Path, store: Any, words: str) -> None:
    with pytest.raises(ProjectError, match=r"langgraph\.json: .*" + words):
        stored(tmp_path, store)


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
        ({"graphs": {"a": "./agent.py:graph"}, "webhooks": {"url": {"require": 1}}}, "webhooks"),
        ({"graphs": {"a": "./agent.py:graph"}, "webhooks": {"url": {"allowed_ports": [0]}}}, "webhooks"),
        (
            {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"url": {"allowed_domains": ["A b"]}}},
            "webhooks",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"allowed_fields": ["user"]}},
            "allowed_fields: 'user'",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"Webhook-Id": "1"}}},
            "headers.Webhook-Id",
        ),
        ({"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"a": "x\ny"}}}, "headers.a"),
        (
            {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"a": "${{ env.LG_WEBHOOK_NO }}"}}},
            "LG_WEBHOOK_NO is not set",
        ),
        (
            {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"a": "${{ env.HOME }}"}}},
            "LG_WEBHOOK_ can stand there, not HOME",
        ),
    ],
)
def test_mistakes_are_told_with_file_and_key(tmp_path: Path, config: Any, word: str) -> None:
    with pytest.raises(ProjectError, match=word):
        load_project(written(tmp_path, config), tmp_path)
