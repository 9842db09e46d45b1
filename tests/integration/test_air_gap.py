"""Bundles between two real registries that do not see each other: what changed goes across, verified, and in order."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from syncline.clients.layout.folder import LayoutFolder
from syncline.kinds.images.bundles import ExportRecord
from tests.rig.signed_images import KEY
from tests.standins import saved
from tests.standins.programs import needs
from tests.standins.registry import Registry
from tests.standins.sigstore import public_pem
from tests.unit.cli.cli_stack import Stack, made_stack

BASE = saved.layer({"base": b"base" * 50_000})
SYNC = """\
syncs:
  prod:
    kind: images
    source: {{registry: "{host}", plain_http: true, catalog: true}}
    target: {{registry: dr.example}}
    referrers: always
"""


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


class Gap:
    """A source with an engine that exports, and a target that imports."""

    def __init__(self, stack: Stack, source: Registry, target: Registry, folder: Path) -> None:
        self.stack, self.source, self.target, self.folder = stack, source, target, folder

    def push(self, repository: str, tag: str, own: bytes) -> str:
        return self.source.push_image(repository, tag, [BASE, saved.layer({tag: own})])

    def export(self, name: str, *options: str, code: int = 0) -> dict[str, Any]:
        return self.stack.json("export", "prod", "--to", str(self.folder / name), *options, code=code)

    def bring(self, name: str, *options: str, code: int = 0, to: str = "/mirror") -> dict[str, Any]:
        return self.stack.json(
            "import", str(self.folder / name), "--to", f"{self.target.host}{to}", *options, code=code
        )

    def at_target(self, repository: str, tag: str) -> str | None:
        accept = {"Accept": saved.OCI_MANIFEST}
        answer = self.target.request("GET", f"/v2/mirror/{repository}/manifests/{tag}", headers=accept)
        return answer.headers.get("Docker-Content-Digest") if answer.status == 200 else None


@pytest.fixture
def gap(moto_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gap]:
    needs("docker-registry")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("syncline.cli.commands_apply.unreachable", lambda *_: [])
    with made_stack(moto_port, tmp_path) as stack, Registry() as source, Registry() as target:
        assert stack.apply(SYNC.format(host=source.host)).exit_code == 0
        made = Gap(stack, source, target, tmp_path / "usb")
        made.folder.mkdir()
        made.push("team/app", "v1", b"one")
        yield made


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs/sha256").iterdir()}


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_a_bundle_carries_all_images_across(gap: Gap, name: str) -> None:
    digest = gap.push("team/other", "v1", b"other")
    answer = gap.export(name)
    assert answer["counts"]["moved"] == 2
    assert answer["predecessor"] is None
    assert gap.bring(name)["counts"]["moved"] == 2
    assert gap.at_target("team/other", "v1") == digest
    assert gap.bring(name)["counts"] == {"skipped": 2}
    assert sorted(path.name for path in gap.folder.iterdir()) == [name]


def test_the_next_bundle_has_only_what_changed(gap: Gap) -> None:
    gap.export("one")
    gap.push("team/app", "v2", b"two")
    moved = gap.push("team/new", "v1", b"three")
    second = gap.export("two")
    assert second["counts"]["moved"] == 2
    base = saved.sha(BASE)
    assert base in blobs(gap.folder / "one")
    assert base not in blobs(gap.folder / "two")
    gap.bring("one")
    assert gap.bring("two")["counts"]["moved"] == 2
    # The base layer of a new repository comes from the repository that has it.
    assert gap.at_target("team/new", "v1") == moved
    assert gap.target.authorized("GET", f"/v2/mirror/team/new/blobs/sha256:{base}").status == 200


def test_without_changes_no_bundle_is_written(gap: Gap) -> None:
    gap.export("one")
    assert gap.export("two")["counts"] == {"skipped": 1}
    assert not (gap.folder / "two").exists()


def test_a_bundle_without_its_predecessor_is_refused(gap: Gap) -> None:
    first = gap.export("one")["bundle"]
    gap.push("team/app", "v2", b"two")
    second = gap.export("two.tar")["bundle"]
    error = gap.bring("two.tar", code=2)["error"]
    assert error["code"] == "BUNDLE_MISSING"
    assert f"import {first} before {second}" in error["what"]
    assert gap.at_target("team/app", "v2") is None


def test_a_full_bundle_needs_no_predecessor(gap: Gap) -> None:
    gap.export("one")
    digest = gap.push("team/app", "v2", b"two")
    assert gap.export("all", "--full")["counts"]["moved"] == 2
    assert gap.bring("all")["counts"]["moved"] == 2
    assert gap.at_target("team/app", "v2") == digest
    gap.push("team/app", "v3", b"three")
    gap.export("next")
    assert gap.bring("next")["counts"]["moved"] == 1


def test_another_image_under_a_tag_is_replaced_only_on_request(gap: Gap) -> None:
    gap.export("one")
    foreign = gap.target.push_image("mirror/team/app", "v1", [saved.layer({"foreign": b"x"})])
    answer = gap.bring("one", code=1)
    assert [each["code"] for each in answer["results"]] == ["TAG_DIFFERS"]
    assert gap.at_target("team/app", "v1") == foreign
    gap.bring("one", "--overwrite")
    assert gap.at_target("team/app", "v1") != foreign


def test_a_tag_that_moved_is_exported_again(gap: Gap) -> None:
    gap.export("one")
    gap.bring("one")
    digest = gap.push("team/app", "v1", b"moved")
    gap.export("two")
    assert gap.bring("two", code=1)["counts"] == {"conflict": 1}
    gap.bring("two", "--overwrite")
    assert gap.at_target("team/app", "v1") == digest


def test_new_referrers_of_an_old_image_go_across(gap: Gap) -> None:
    digest = gap.push("team/app", "v1", b"one")
    gap.export("one")
    gap.bring("one")
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": saved.OCI_MANIFEST,
            "artifactType": "application/vnd.example.sbom",
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": f"sha256:{saved.sha(b'{}')}",
                "size": 2,
            },
            "layers": [],
            "subject": {"mediaType": saved.OCI_MANIFEST, "digest": digest, "size": 1},
        }
    ).encode()
    referrer = f"sha256:{saved.sha(body)}"
    gap.source.push_blob("team/app", b"{}")
    headers = {"Content-Type": saved.OCI_MANIFEST}
    gap.source.authorized("PUT", f"/v2/team/app/manifests/{referrer}", body, headers)
    listed = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": saved.OCI_INDEX,
            "manifests": [
                {
                    "mediaType": saved.OCI_MANIFEST,
                    "digest": referrer,
                    "size": len(body),
                    "artifactType": "application/vnd.example.sbom",
                }
            ],
        }
    ).encode()
    tag = digest.replace(":", "-")
    gap.source.push_manifest("team/app", tag, listed, saved.OCI_INDEX)
    gap.export("two")
    gap.bring("two")
    assert gap.at_target("team/app", referrer) == referrer
    assert gap.export("three")["counts"]["skipped"] >= 1
    assert not (gap.folder / "three").exists()


def test_an_interrupted_export_continues(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.push("team/app", "v2", b"two")
    put, count = LayoutFolder.put_tag, 0

    def break_off(self: LayoutFolder, *args: Any, **named: Any) -> str | None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return put(self, *args, **named)

    monkeypatch.setattr(LayoutFolder, "put_tag", break_off)
    assert gap.stack.run("export", "prod", "--to", str(gap.folder / "one")).exit_code == 130
    assert not (gap.folder / "one/bundle.json").exists()
    assert gap.stack.run("import", str(gap.folder / "one"), "--to", gap.target.host).exit_code == 2
    monkeypatch.setattr(LayoutFolder, "put_tag", put)
    answer = gap.export("one")
    # One image was complete, and of the other all layers.
    assert answer["counts"]["moved"] + answer["counts"].get("skipped", 0) == 2
    assert answer["counts"].get("bytes", 0) == 0
    assert gap.bring("one")["counts"]["moved"] == 2


def test_an_interrupted_import_continues(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.push("team/app", "v2", b"two")
    gap.export("one")
    from syncline.clients.registry.client import Registry as Client  # noqa: PLC0415

    put, count = Client.put_tag, 0

    def break_off(self: Client, *args: Any, **named: Any) -> str | None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return put(self, *args, **named)

    monkeypatch.setattr(Client, "put_tag", break_off)
    arguments = ("import", str(gap.folder / "one"), "--to", f"{gap.target.host}/mirror")
    assert gap.stack.run(*arguments).exit_code == 130
    monkeypatch.setattr(Client, "put_tag", put)
    assert gap.bring("one")["counts"] == {"moved": 1, "skipped": 1}


def test_an_export_into_a_folder_with_a_bundle_is_refused(gap: Gap) -> None:
    gap.export("one")
    gap.push("team/app", "v2", b"two")
    assert gap.export("one", code=2)["error"]["code"] == "WOULD_OVERWRITE"
    gap.export("two.tar")
    gap.push("team/app", "v3", b"three")
    refused = gap.export("two.tar", code=2)["error"]
    assert refused["code"] == "WOULD_OVERWRITE"
    assert "restore" not in refused["action"]
    (gap.folder / "other").mkdir()
    (gap.folder / "other/letter.txt").write_text("mine")
    assert gap.export("other", code=2)["error"]["code"] == "WOULD_OVERWRITE"
    assert (gap.folder / "other/letter.txt").read_text() == "mine"


def test_a_lost_bundle_is_replaced_by_a_full_one(gap: Gap) -> None:
    gap.export("one")
    shutil.rmtree(gap.folder / "one")
    assert gap.export("again")["counts"] == {"skipped": 1}
    assert gap.export("again", "--full")["counts"]["moved"] == 1


def test_sha256sum_checks_a_bundle_and_skopeo_reads_it(gap: Gap) -> None:
    needs("skopeo", "sha256sum")
    gap.export("one")
    subprocess.run(["sha256sum", "--check", "--strict", "sha256sums"], cwd=gap.folder / "one", check=True)
    seen = subprocess.run(
        ["skopeo", "inspect", f"oci:{gap.folder}/one:team/app:v1"], check=True, capture_output=True
    ).stdout
    assert json.loads(seen)["Layers"][0] == f"sha256:{saved.sha(BASE)}"


def damage(folder: Path, kind: str) -> None:
    layer = folder / "blobs/sha256" / saved.sha(BASE)
    content = layer.read_bytes()
    match kind:
        case "one flipped byte":
            layer.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        case "a shorter blob":
            layer.write_bytes(content[:-1])
        case "a missing blob":
            layer.unlink()
        case "a blob replaced by a link":
            layer.rename(folder.parent / "elsewhere")
            layer.symlink_to(folder.parent / "elsewhere")
        case "a foreign file":
            (folder / "readme.txt").write_text("hello")
        case "an index without its image":
            (folder / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
            resum(folder, "index.json")
        case "a bundle.json of another version":
            (folder / "bundle.json").write_text('{"version": 2}')
            resum(folder, "bundle.json")
        case "a blob and its sum removed":
            layer.unlink()
            sums = (folder / "sha256sums").read_text().splitlines(keepends=True)
            (folder / "sha256sums").write_text("".join(line for line in sums if layer.name not in line))
        case "no sums":
            (folder / "sha256sums").unlink()


def resum(folder: Path, name: str) -> None:
    lines = (folder / "sha256sums").read_text().splitlines(keepends=True)
    new = f"{saved.sha((folder / name).read_bytes())}  {name}\n"
    (folder / "sha256sums").write_text("".join(new if line.endswith(f"  {name}\n") else line for line in lines))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("one flipped byte", "ARCHIVE_INVALID"),
        ("a shorter blob", "ARCHIVE_INVALID"),
        ("a missing blob", "ARCHIVE_INVALID"),
        ("a blob replaced by a link", "LINK_REFUSED"),
        ("a foreign file", "ARCHIVE_INVALID"),
        ("an index without its image", "ARCHIVE_INVALID"),
        ("a bundle.json of another version", "ARCHIVE_INVALID"),
        ("a blob and its sum removed", "ARCHIVE_INVALID"),
        ("no sums", "ARCHIVE_INVALID"),
    ],
)
def test_a_damaged_bundle_sends_nothing(gap: Gap, kind: str, code: str) -> None:
    gap.export("one")
    damage(gap.folder / "one", kind)
    assert gap.bring("one", code=2)["error"]["code"] == code
    assert json.loads(gap.target.authorized("GET", "/v2/_catalog").body)["repositories"] == []


def test_a_damaged_record_of_exports_is_an_error_with_a_way_out(gap: Gap) -> None:
    gap.export("one")
    (gap.stack.home / "exports/prod.json").write_text("{")
    error = gap.export("two", code=2)["error"]
    assert error["code"] == "ARCHIVE_INVALID"
    assert "--full" in error["what"]
    assert gap.export("two", "--full")["counts"]["moved"] == 1


def test_an_export_killed_while_it_begins_continues(gap: Gap) -> None:
    folder = gap.folder / "one"
    folder.mkdir()
    (folder / ".syncline-0123456789abcdef").write_bytes(b"part of a file")  # as a killed write leaves it
    assert gap.export("one")["counts"]["moved"] == 1
    assert not list(folder.glob(".syncline-*"))
    shutil.rmtree(gap.stack.home / "exports")
    for name in ("index.json", "bundle.json", "sha256sums"):
        (folder / name).unlink()
    (folder / "unfinished.json").write_text('{"sync": "prod", "predecessor": null}')
    assert gap.export("one")["counts"].get("bytes", 0) == 0
    assert gap.bring("one")["counts"]["moved"] == 1


def test_an_export_killed_before_its_file_is_recorded_continues(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExportRecord, "save", die)
        assert gap.stack.run("export", "prod", "--to", str(gap.folder / "one.tar")).exit_code == 130
    assert gap.export("one.tar")["counts"] == {"skipped": 1}
    assert [path.name for path in gap.folder.iterdir()] == ["one.tar"]
    assert gap.bring("one.tar")["counts"]["moved"] == 1


def test_two_exports_of_a_sync_at_a_time_are_refused(gap: Gap) -> None:
    gap.export("one")
    with (gap.stack.home / "exports/prod.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert gap.export("two", code=2)["error"]["code"] == "ALREADY_RUNNING"
    gap.export("two")


def test_an_untrusted_image_fails_the_export(gap: Gap) -> None:
    rule = f"    verify: [{{public_key: {json.dumps(public_pem(KEY))}}}]\n"
    assert gap.stack.apply(SYNC.format(host=gap.source.host) + rule).exit_code == 0
    answer = gap.export("one", code=1)
    assert answer["counts"] == {"untrusted": 1}
    assert not (gap.folder / "one").exists()


def test_the_sums_end_as_sha256sum_writes_them(gap: Gap) -> None:
    gap.export("one")
    sums = gap.folder / "one/sha256sums"
    sums.write_bytes(sums.read_bytes()[:-1] + b"\v")
    assert gap.bring("one", code=2)["error"]["code"] == "ARCHIVE_INVALID"


def test_a_target_that_stores_other_bytes_fails_the_import(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.export("one")
    gap.bring("one")
    from syncline.clients.registry.blob_stream import BlobStream  # noqa: PLC0415

    read = BlobStream.read
    monkeypatch.setattr(BlobStream, "read", lambda self, *size: read(self, *size).replace(b"base", b"bass", 1))
    assert gap.bring("one", code=2)["error"]["code"] == "DIGEST_MISMATCH"
