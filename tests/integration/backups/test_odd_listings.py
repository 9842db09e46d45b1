"""Backups: an invalid entry in the listing of a bucket fails alone, and causes no removal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from moto import mock_aws

from syncline.clients.http.client import Http
from syncline.clients.http.retry import HOST_THROTTLE
from syncline.config.sync import load_sync
from syncline.kinds.backups.wiring import Builder
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Item
from syncline.secrets import Secrets
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from tests.rig.stack import table_of_test
from tests.standins.git_places import Bare, make_bare
from tests.standins.odd_listings import Change, bad_size, invalidating, no_key
from tests.standins.s3 import ACCESS, SECRET, S3Server

FILES: Final = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(4)}
SORTS: Final = ("git", "directory", "bucket")


@dataclass
class World:
    """A strict S3 server and a target of one sort."""

    s3: S3Server
    bare: Bare
    folder: Path
    sort: str
    parts: Dependencies
    batches: int = 0
    prefix: str = ""

    def run(self) -> dict[str, str]:
        """Scan, and transfer the differences; return the code or outcome of each item, "sent" for transferred ones."""
        auth = {"access_key": ACCESS, "secret_key": "env:S3_SECRET"}
        bucket = {"endpoint": self.s3.url, "auth": auth}
        targets: dict[str, Any] = {
            "git": {"repository": f"file://{self.bare.path}"},
            "directory": {"directory": str(self.folder)},
            "bucket": {"bucket": "second", "prefix": "copy/", **bucket},
        }
        source = {"bucket": "first", "prefix": self.prefix, **bucket}
        config = {"source": source, "target": targets[self.sort], "removals": {"share": 1}}
        kind = Builder(self.parts)(load_sync(json.dumps({"name": "s", "kind": "backups", **config})))
        self.batches += 1
        ended: dict[str, str] = {}
        items: list[Item] = []
        for page in kind.discover(EVERYTHING, None, StepContext(lambda: 100.0, work=f"scan{self.batches}", run="r")):
            items += page.items
            ended |= {result.name: result.code or result.outcome.value for result in page.results}
            ended |= {str(failure.item): failure.error.code.name for failure in page.failures}
        for group in sorted({item.group for item in items}):
            members = [item for item in items if item.group == group]
            answers = list(kind.transfer(members, StepContext(lambda: 100.0, work=f"batch{self.batches}", run="r")))
            assert len(answers) == len(members)
        return ended | dict.fromkeys((item.name for item in items), "sent")

    def files(self) -> set[str]:
        if self.sort == "git":
            return set(self.bare.files())
        if self.sort == "bucket":
            return {key.removeprefix("copy/") for key in self.s3.objects["second"]}
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def put(self, files: dict[str, bytes]) -> None:
        for key, content in files.items():
            self.s3.put("first", key, content)

    def change(self, bucket: str, key: str, how: Change) -> None:
        self.s3.hook = invalidating(self.s3, bucket, key, how)


@pytest.fixture(params=SORTS)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
    HOST_THROTTLE._hosts.clear()
    with mock_aws(), S3Server("first", "second") as s3:
        table = table_of_test()
        secrets = Secrets(_never, _never, {"S3_SECRET": SECRET})
        parts = Dependencies(secrets, Http(), State(table), Database(table))
        yield World(s3, make_bare(tmp_path / "r.git"), tmp_path / "folder", request.param, parts)


def _never() -> Any:
    raise AssertionError("no secret is asked for")


def invalid(ended: dict[str, str]) -> list[str]:
    return [name for name, code in ended.items() if code == "ENTRY_INVALID"]


@pytest.mark.parametrize(
    ("change", "name"), [(bad_size, "east/n/f2.yaml"), (no_key, "the entry before 'east/n/f3.yaml' in the listing of")]
)
def test_all_other_objects_are_moved(world: World, change: Change, name: str) -> None:
    world.put(FILES)
    world.change("first", "east/n/f2.yaml", change)
    ended = world.run()
    (odd,) = invalid(ended)
    assert odd.startswith(name)
    assert {key for key, how in ended.items() if how == "sent"} == FILES.keys() - {"east/n/f2.yaml"}
    assert world.files() == FILES.keys() - {"east/n/f2.yaml"}


@pytest.mark.parametrize("change", [bad_size, no_key])
def test_nothing_of_its_cluster_is_removed(world: World, change: Change) -> None:
    world.put(FILES)
    world.run()
    del world.s3.objects["first"]["east/n/f1.yaml"], world.s3.objects["first"]["west/n/f1.yaml"]
    world.put({"east/n/new.yaml": b"new"})
    world.change("first", "east/n/f2.yaml", change)
    assert len(invalid(world.run())) == 1
    assert {name for name in world.files() if name.startswith("east/")} == {
        *(f"east/n/f{number}.yaml" for number in range(4)),
        "east/n/new.yaml",
    }
    # The listing of the other cluster was complete.
    assert "west/n/f1.yaml" not in world.files()


def test_an_invalid_entry_of_a_cluster_is_reported(world: World) -> None:
    world.put(FILES | {"loose.yaml": b"in no cluster"})
    world.change("first", "loose.yaml", no_key)
    ended = world.run()
    assert len(invalid(ended)) == 1
    assert world.files() == FILES.keys()


def test_a_prefix_with_only_an_invalid_entry_is_not_absent(world: World) -> None:
    world.prefix = "b/"
    world.put({"b/loose.yaml": b"in no cluster"})
    world.change("first", "b/loose.yaml", no_key)
    assert set(world.run().values()) == {"ENTRY_INVALID"}


@pytest.mark.parametrize("world", ["bucket"], indirect=True)
@pytest.mark.parametrize("change", [bad_size, no_key])
def test_an_invalid_entry_of_the_target_bucket(world: World, change: Change) -> None:
    world.put(FILES)
    world.run()
    del world.s3.objects["first"]["east/n/f1.yaml"], world.s3.objects["first"]["west/n/f1.yaml"]
    world.put({"east/n/new.yaml": b"new", "west/n/new.yaml": b"new"})
    world.change("second", "copy/east/n/f2.yaml", change)
    ended = world.run()
    assert len(invalid(ended)) == 1
    assert world.files() >= {"east/n/f1.yaml", "east/n/f2.yaml", "east/n/new.yaml", "west/n/new.yaml"}
    assert "west/n/f1.yaml" not in world.files()
