"""The schema, the reference pages and the examples agree with the models and the table of codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from scripts.reference import PAGE_FILE, SCHEMA_FILE, files, schema
from syncline.config.file import ConfigInvalid, parse_syncs, read_syncs
from syncline.config.model import Model
from syncline.config.sync import Gathering, Removals, Sync, model_of
from syncline.kinds.table import KINDS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def valid(data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(data))


def test_the_files_are_current() -> None:
    for name, text in files().items():
        assert (ROOT / name).read_text() == text, "run `python -m scripts.reference`"


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def models_in(annotation: Any) -> set[type[Model]]:
    """Return every model that a sync may contain."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return {annotation}.union(*(models_in(info.annotation) for info in annotation.model_fields.values()))
    return set().union(*map(models_in, get_args(annotation)))


def test_every_key_is_described_on_the_page() -> None:
    text = files()[PAGE_FILE]
    for model in set().union(*map(models_in, [*map(model_of, KINDS), Removals, Gathering])):
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"
            is_key = name == "name" and issubclass(model, Sync)  # the key above the sync
            assert is_key or f"| `{info.alias or name}` | {info.description}" in text, f"{model.__name__}.{name}"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_valid(file: Path) -> None:
    assert read_syncs(file).warnings == ()
    assert valid(yaml.safe_load(file.read_text()))
    named = file.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / named).resolve() == ROOT / SCHEMA_FILE


def test_the_example_on_the_page_is_valid() -> None:
    (example,) = [block for block in files()[PAGE_FILE].split("```") if block.startswith("yaml\nsyncs:")]
    assert list(parse_syncs(example.removeprefix("yaml\n").encode()).syncs) == ["prod-to-dr"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["colour"], "red"),
        (["name"], "a"),
        (["kind"], "files"),
        (["enabled"], "yes"),
        (["concurrency"], 33),
        (["schedule"], "hourly"),
        (["webhook"], {"secret": "hunter2"}),
        (["source", "registry"], "https://prod.example"),
        (["source", "catalog"], True),
        (["source", "repositories"], []),
        (["source", "repositories"], ["Team/App"]),
        (["source", "auth"], "hunter2"),
        (["source", "auth"], {"username": "u", "password": "hunter2"}),
        (["source", "auth"], {"username": "u"}),
        (["source", "auth"], {"username": "u", "password": "env:P", "token": "env:T"}),
        (["source", "api"], {"kind": "other"}),
        (["target", "prefix"], "mirror/"),
        (["target", "catalog"], True),
        (["select"], {"tags": {"include": "v*"}}),
    ],
)
def test_the_schema_rejects_what_the_models_reject(path: list[str], value: Any) -> None:
    source = {"registry": "prod.example", "repositories": ["team/app"]}
    sync: dict[str, Any] = {"kind": "images", "source": source, "target": {"registry": "dr.example"}}
    data = {"syncs": {"a": sync}}
    assert valid(data)
    part = sync
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert not valid(data)
    with pytest.raises(ConfigInvalid):
        parse_syncs(json.dumps(data).encode())


def test_the_schema_rejects_an_invalid_name() -> None:
    assert valid({"syncs": {}})
    assert not valid({"syncs": {"Prod": {}}})
    assert not valid({"sync": {}})
