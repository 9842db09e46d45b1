"""An audit finds what was changed in the storage of a real docker-registry, and a repair sends what was deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from syncline.messages import Start
from syncline.model import Outcome, Result, Run, Scope, Trigger
from tests.rig.chain import Chain
from tests.rig.run_ids import made_run_id
from tests.standins.programs import needs
from tests.standins.registry import Registry

pytestmark = pytest.mark.moto

SIZE = 3_000_000


@pytest.fixture
def ends() -> Iterator[tuple[Registry, Registry]]:
    needs("docker-registry")
    with mock_aws(), Registry() as source, Registry() as target:
        yield source, target


@pytest.fixture
def chain(ends: tuple[Registry, Registry]) -> Chain:
    """Return a chain after a run that has copied two images with a common layer."""
    source, target = ends
    common = os.urandom(SIZE)
    for tag in ("1", "2"):
        source.push_image("team/app", tag, [common, os.urandom(SIZE)])
    chain = Chain("prod-to-dr", {})
    endpoints = {
        "source": {"registry": source.host, "plain_http": True, "catalog": True},
        "target": {"registry": target.host, "plain_http": True},
    }
    chain.apply({"kind": "images", **endpoints})
    assert chain.run().counts.moved == 2
    return chain


def layer_files(registry: Registry) -> list[Path]:
    """Return the files of the layers in a registry's storage."""
    blobs = registry.folder / "data" / "docker" / "registry" / "v2" / "blobs"
    return sorted(path for path in blobs.rglob("data") if path.stat().st_size == SIZE)


def remove(path: Path, registry: Registry) -> None:
    """Remove a file, and restart the registry: it answers HEAD from its memory for as long as it lives."""
    path.unlink()
    registry.halt()
    registry.start()


def differing(chain: Chain) -> list[Result]:
    return [each for each in chain.results().values() if each.outcome is not Outcome.EQUAL]


def repair(chain: Chain) -> Run:
    """Execute the run that `syncline audit --repair` starts."""
    asked = [(each.group, each.name) for each in differing(chain)]
    scope = Scope.of(group for group, _ in asked)
    chain.clock.sleep(1)
    run, _ = chain.state.begin_run(chain.sync, made_run_id(), Trigger.RETRY, scope, asked=asked)
    chain.queues.start(Start(chain.sync, Trigger.RETRY, scope, run=run.id))
    chain.pump.run()
    return chain.state.run(chain.sync, run.id)


def test_nothing_differs_after_a_run(chain: Chain) -> None:
    run = chain.audit(deep=True)
    assert not differing(chain)
    assert run.counts.skipped == 2
    assert run.counts.bytes > 3 * SIZE


def test_a_flipped_byte_in_any_layer_is_found(chain: Chain, ends: tuple[Registry, Registry]) -> None:
    files = layer_files(ends[1])
    assert len(files) == 3
    for at, path in enumerate(files):
        content = bytearray(path.read_bytes())
        position = (0, SIZE // 2, SIZE - 1)[at]
        content[position] ^= 1
        path.write_bytes(content)
        chain.audit(parts=True)
        assert not differing(chain), "only reading the bytes shows this"
        chain.audit(deep=True)
        found = differing(chain)
        assert {each.code for each in found} == {"BLOB_DAMAGED"}
        assert all(path.parent.name in str(each.reason) for each in found)
        content[position] ^= 1
        path.write_bytes(content)


def test_a_deleted_layer_is_found_and_sent_again(chain: Chain, ends: tuple[Registry, Registry]) -> None:
    for path in layer_files(ends[1]):
        remove(path, ends[1])
        chain.audit()
        assert not differing(chain), "the tag and its manifest stay"
        chain.audit(parts=True)
        found = differing(chain)
        assert {(each.outcome, each.code) for each in found} == {(Outcome.DIFFERENT, "INCOMPLETE")}
        assert all(path.parent.name in str(each.reason) for each in found)
        assert not repair(chain).counts.failed
        chain.audit(deep=True)
        assert not differing(chain)


def test_reading_finds_a_deleted_layer_that_head_still_shows(chain: Chain, ends: tuple[Registry, Registry]) -> None:
    layer_files(ends[1])[0].unlink()
    chain.audit(deep=True)
    found = differing(chain)
    assert found
    assert all(each.outcome in (Outcome.DIFFERENT, Outcome.UNREADABLE) for each in found)


def test_a_registry_that_keeps_damaged_bytes_is_reported(chain: Chain, ends: tuple[Registry, Registry]) -> None:
    path = layer_files(ends[1])[0]
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    chain.audit(deep=True)
    run = repair(chain)
    failed = {each.code for each in chain.state.results(run.id) if each.outcome is Outcome.FAILED}
    if path.read_bytes() == right:
        assert not failed
    else:
        assert failed == {"BLOB_DAMAGED"}
        remove(path, ends[1])  # as the advice of the code says
        assert not repair_after_removal(chain).counts.failed
    chain.audit(deep=True)
    assert not differing(chain)


def manifest_file(registry: Registry, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return registry.folder / "data/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"


def restart(registry: Registry) -> None:
    registry.halt()
    registry.start()


@pytest.mark.parametrize("flipped", ["a digit of a digest", "a brace"])
def test_a_flipped_byte_in_a_manifest_is_found_and_mended(
    chain: Chain, ends: tuple[Registry, Registry], flipped: str
) -> None:
    """Debian's registry keeps the file that it has: the repair says so, and sends the manifest once the file is gone."""
    result = chain.results()["team/app", "1"]
    path = manifest_file(ends[1], str(result.source))
    right = path.read_bytes()
    at = right.index(b"sha256:") + 9 if flipped == "a digit of a digest" else 0
    path.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
    restart(ends[1])
    chain.audit(parts=True)
    (found,) = differing(chain)
    assert found.name == "1"
    assert found.outcome is not Outcome.EXTRA
    repaired = repair(chain)
    if path.read_bytes() != right:
        (failed,) = [each for each in chain.state.results(repaired.id) if each.outcome is Outcome.FAILED]
        assert failed.code in ("BLOB_DAMAGED", "SERVER_ERROR")
        remove(path, ends[1])  # as the advice of the code says
        chain.audit(parts=True)
        assert not repair(chain).counts.failed
    assert path.read_bytes() == right
    chain.audit(deep=True)
    assert not differing(chain)


def repair_after_removal(chain: Chain) -> Run:
    chain.audit(parts=True)
    return repair(chain)
