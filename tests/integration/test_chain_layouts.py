"""Syncs of images from and to layouts on the disk of the machine that the functions run on."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.layout.contents import blob_path
from syncline.clients.layout.folder import LayoutFolder, pack, write_sums
from syncline.clients.layout.reader import Layout
from syncline.clients.layout.shared import shared_folder
from syncline.clients.registry.manifest import OCI_INDEX, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.model import Outcome
from tests.rig.images import ImagesChain, ImagesWorld, small

pytestmark = pytest.mark.moto


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return registries.chain()


def to_layout(chain: ImagesChain, folder: Path, **more: Any) -> ImagesChain:
    return small(chain, target={"registry": f"oci:{folder}"}, **more)


def tags_in(folder: Path) -> dict[tuple[str, str], str]:
    layout = Layout.at(folder, "layout")
    return {tuple(name): entry.descriptor.digest for entry in layout.entries for name in entry.names}  # type: ignore[misc]


def test_a_registry_is_synced_to_a_layout_and_back(chain: ImagesChain, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    to_layout(chain, folder)
    wanted = chain.source.store.tags()
    counts = chain.run().counts
    assert (counts.moved, counts.failed, counts.conflict) == (len(wanted), 0, 0)
    assert tags_in(folder) == wanted
    counts = chain.run().counts
    assert (counts.moved, counts.skipped) == (0, len(wanted))
    chain.target.clear()
    chain.configure(source={"registry": f"oci:{folder}", "catalog": True}, target=endpoint(chain))
    assert chain.run().counts.moved == len(wanted)
    assert chain.target.store.tags() == wanted
    assert not chain.target.store.broken()


def endpoint(chain: ImagesChain) -> dict[str, Any]:
    return {"registry": chain.target.host, "plain_http": True}


def test_a_layout_in_a_file_is_a_source(chain: ImagesChain, tmp_path: Path) -> None:
    to_layout(chain, tmp_path / "layout")
    chain.run()
    layout = LayoutFolder(tmp_path / "layout", "layout")
    with (tmp_path / "images.tar").open("wb") as file:
        pack(layout.directory, file)
    chain.target.clear()
    chain.configure(source={"registry": f"oci-archive:{tmp_path}/images.tar", "catalog": True}, target=endpoint(chain))
    chain.run()
    assert chain.target.store.tags() == chain.source.store.tags()


def test_a_change_of_the_layout_is_seen_by_the_next_run(chain: ImagesChain, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    to_layout(chain, folder)
    chain.run()
    shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "manifests": index["manifests"][:-1]}))
    assert chain.run().counts.moved == 1
    assert tags_in(folder) == tags_in(tmp_path / "copy")


def test_a_conflict_in_a_layout_is_left_as_it_is(chain: ImagesChain, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    to_layout(chain, folder)
    chain.run()
    before = tags_in(folder)
    chain.source.store.add_image("team/app", "1.0", b"another layer")
    run = chain.run()
    assert [each.outcome for each in chain.results(run).values()] == [Outcome.CONFLICT]
    assert tags_in(folder) == before


def test_sums_that_a_sync_makes_wrong_are_removed(chain: ImagesChain, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    to_layout(chain, folder)
    chain.run()
    write_sums(LayoutFolder(folder, "layout").directory)
    chain.source.store.add_image("team/app", "9.9", b"a new layer")
    chain.run()
    assert not (folder / "sha256sums").exists()


def test_images_without_a_repository_are_reported(chain: ImagesChain, tmp_path: Path) -> None:
    to_layout(chain, tmp_path / "layout")
    chain.run()
    text = (tmp_path / "layout/index.json").read_text()
    text = text.replace("team/app:1.0", "1.0").replace("team/base:latest", "../base:latest")
    (tmp_path / "layout/index.json").write_text(text)
    chain.target.clear()
    chain.configure(source={"registry": f"oci:{tmp_path}/layout", "catalog": True}, target=endpoint(chain))
    run = chain.run()
    assert [each.code for each in chain.results(run).values() if each.outcome is Outcome.FAILED] == [
        "REFERENCE_INVALID"
    ] * 2
    assert run.counts.moved == len(chain.source.store.tags()) - 2


def test_processes_that_write_at_once_lose_no_image(tmp_path: Path) -> None:
    def write(number: int) -> None:
        store = shared_folder(tmp_path / "layout", "layout")  # as each process has its own
        for tag in range(10):
            body = json.dumps(
                {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "n": [number, tag]}
            ).encode()
            store.put_tag(f"app{number}", f"v{tag}", Manifest(digest_of(body), OCI_INDEX, body), None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tags_in(tmp_path / "layout")) == 80
    assert all((tmp_path / "layout" / blob_path(each)).exists() for each in tags_in(tmp_path / "layout").values())
