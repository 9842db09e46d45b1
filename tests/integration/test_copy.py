"""`syncline copy` between a real registry, OCI layouts and Docker; skopeo, crane and Docker read what it writes, and the reverse."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.registry.blob_stream import BlobStream
from syncline.errors import SynclineError
from tests.standins import saved
from tests.standins.programs import needs, program
from tests.standins.registry import Registry
from tests.unit.cli.cli_stack import command_process, in_process

LAYERS = [saved.layer({"a": b"one" * 5_000}), saved.layer({"b": b"two"})]
Run = Callable[..., bytes]


def copy(source: str, target: str, *options: str, code: int = 0) -> dict[str, Any]:
    result = in_process("copy", source, target, *options, "--json")
    assert result.exit_code == code, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def copy_with_daemon(source: str, target: str, *options: str, code: int = 0) -> dict[str, Any]:
    """Copy in a separate process, since tests reach no socket of this machine."""
    process = command_process("copy", source, target, *options, "--json")
    ended, output, _ = process.end(120)
    assert ended == code, output
    value: dict[str, Any] = json.loads(output)
    return value


def outcomes(answer: dict[str, Any]) -> list[str]:
    return [each["outcome"] for each in answer["results"]]


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    needs("docker-registry")
    with Registry() as started:
        yield started


@pytest.fixture
def image(registry: Registry, namespace: str) -> str:
    """A reference to an image with two layers."""
    registry.push_image(f"{namespace}/app", "v1", LAYERS)
    return f"{registry.host}/{namespace}/app:v1"


@pytest.fixture
def crane() -> Run:
    path = shutil.which("crane", path=f"{os.environ['PATH']}:{Path.home()}/go/bin")
    if path is None:
        pytest.skip("crane is not installed: go install github.com/google/go-containerregistry/cmd/crane@latest")

    def run(*arguments: str) -> bytes:
        return subprocess.run([path, *arguments], check=True, capture_output=True, timeout=120).stdout

    return run


@pytest.fixture
def docker() -> Run:
    """Run docker; skip without a daemon."""
    needs("docker")
    if subprocess.run([program("docker"), "info"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("no Docker daemon runs")

    def run(*arguments: str) -> bytes:
        return subprocess.run([program("docker"), *arguments], check=True, capture_output=True, timeout=120).stdout

    return run


@pytest.fixture
def loaded(docker: Run, namespace: str) -> Iterator[str]:
    """A name at the daemon, which is removed afterwards."""
    name = f"{namespace}/copied:v1"
    yield name
    docker("rmi", "--force", name)


def config_of(skopeo: Run, reference: str, *options: str) -> Any:
    return json.loads(skopeo("inspect", "--config", "--raw", *options, reference))


class TestRegistries:
    def test_an_image_is_copied_once(self, image: str) -> None:
        target = image.replace("/app:v1", "/mirror:v2")
        first = copy(image, target)
        assert outcomes(first) == ["moved"]
        assert first["results"][0]["source"] == first["results"][0]["target"]
        assert outcomes(copy(image, target)) == ["skipped"]

    def test_another_image_is_replaced_only_on_request(self, registry: Registry, image: str, namespace: str) -> None:
        registry.push_image(f"{namespace}/mirror", "v1", [b"another"])
        target = image.replace("/app:", "/mirror:")
        assert outcomes(copy(image, target, code=1)) == ["conflict"]
        assert outcomes(copy(image, target, "--overwrite")) == ["moved"]

    def test_a_digest_is_copied_under_a_tag(self, image: str) -> None:
        digest = copy(image, image.replace("/app:", "/one:"))["results"][0]["source"]
        by_digest = image.replace(":v1", f"@{digest}")
        assert copy(by_digest, image.replace("/app:", "/two:"))["results"][0]["target"] == digest

    def test_selected_tags_of_a_repository(self, registry: Registry, image: str, namespace: str) -> None:
        for tag in ("v2", "v3", "w1"):
            registry.push_image(f"{namespace}/app", tag, [tag.encode()])
        repository = image.removesuffix(":v1")
        answer = copy(repository, repository.replace("/app", "/some"), "--select", "v*")
        assert sorted(each["name"] for each in answer["results"]) == ["v1", "v2", "v3"]
        assert len(copy(repository, repository.replace("/app", "/all"), "--all-tags")["results"]) == 4

    def test_an_absent_image_is_an_error(self, image: str, tmp_path: Path) -> None:
        answer = copy(image.replace(":v1", ":v9"), f"oci:{tmp_path}/layout", code=2)
        assert answer["error"]["code"] == "SOURCE_ABSENT"

    @pytest.mark.parametrize("reference", ["quay.example/UPPER:v1", "ftp://host/a:v1", "oci:", "docker-daemon:"])
    def test_an_invalid_reference_is_an_error(self, reference: str, image: str) -> None:
        assert copy(reference, image, code=2)["error"]["code"] in {"USAGE", "REFERENCE_INVALID"}


class TestLayouts:
    @pytest.mark.parametrize("form", ["oci", "oci-archive"])
    @pytest.mark.parametrize("name", ["", ":v1", ":team/app:v1"])
    def test_skopeo_reads_what_is_written(self, skopeo: Run, image: str, tmp_path: Path, form: str, name: str) -> None:
        place = f"{form}:{tmp_path}/image{name}"
        digest = copy(image, place)["results"][0]["source"]
        assert json.loads(skopeo("inspect", place))["Digest"] == digest
        assert outcomes(copy(image, place)) == ["skipped"]
        assert outcomes(copy(place, image.replace("/app:", "/back:"))) == ["moved"]

    @pytest.mark.parametrize("form", ["oci", "oci-archive"])
    @pytest.mark.parametrize("name", ["", ":v1", ":team/app:v1"])
    def test_a_layout_of_skopeo_is_read(self, skopeo: Run, image: str, tmp_path: Path, form: str, name: str) -> None:
        place = f"{form}:{tmp_path}/image{name}"
        skopeo("copy", "--src-tls-verify=false", f"docker://{image}", place)
        target = image.replace("/app:", "/back:")
        answer = copy(place, target)
        assert outcomes(answer) == ["moved"]
        seen = skopeo("inspect", "--tls-verify=false", f"docker://{target}")
        assert json.loads(seen)["Digest"] == answer["results"][0]["source"]

    def test_skopeo_adds_to_a_layout_and_the_reverse(self, skopeo: Run, image: str, tmp_path: Path) -> None:
        layout = f"oci:{tmp_path}/layout"
        copy(image, f"{layout}:v1")
        skopeo("copy", "--src-tls-verify=false", f"docker://{image}", f"{layout}:v2")
        copy(image, f"{layout}:v3")
        for tag in ("v1", "v2", "v3"):
            assert json.loads(skopeo("inspect", f"{layout}:{tag}"))["Layers"]
        answer = copy(layout, image.replace("/app:v1", "/all"), "--all-tags")
        assert sorted(each["name"] for each in answer["results"]) == ["v1", "v2", "v3"]

    def test_crane_reads_and_writes_layouts(self, crane: Run, image: str, tmp_path: Path) -> None:
        digest = copy(image, f"oci:{tmp_path}/ours")["results"][0]["source"]
        pushed = image.replace("/app:", "/crane:")
        crane("push", str(tmp_path / "ours"), pushed, "--insecure")
        assert crane("digest", pushed, "--insecure").decode().strip() == digest
        crane("pull", "--format=oci", "--annotate-ref", image, str(tmp_path / "theirs"), "--insecure")
        answer = copy(f"oci:{tmp_path}/theirs", image.replace("/app:", "/back:"))
        assert answer["results"][0]["target"] == digest

    def test_the_sums_of_a_layout_are_right(self, image: str, tmp_path: Path) -> None:
        needs("sha256sum")
        copy(image, f"oci:{tmp_path}/layout")
        subprocess.run(["sha256sum", "--check", "--strict", "sha256sums"], cwd=tmp_path / "layout", check=True)

    def test_an_archive_with_another_image_is_kept(
        self, registry: Registry, image: str, namespace: str, tmp_path: Path
    ) -> None:
        place = f"oci-archive:{tmp_path}/image.tar"
        copy(image, place)
        before = (tmp_path / "image.tar").read_bytes()
        registry.push_image(f"{namespace}/app", "v1", [b"moved"])
        assert copy(image, place, code=2)["error"]["code"] == "WOULD_OVERWRITE"
        assert (tmp_path / "image.tar").read_bytes() == before
        assert outcomes(copy(image, place, "--overwrite")) == ["moved"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tar"]

    def test_an_index_is_copied_whole_or_one_platform_of_it(
        self, registry: Registry, image: str, namespace: str, tmp_path: Path
    ) -> None:
        digests = {each: registry.push_image(f"{namespace}/app", each, [each.encode()]) for each in ("amd64", "s390x")}
        entries = [
            {
                "mediaType": saved.OCI_MANIFEST,
                "digest": digest,
                "size": len(
                    registry.authorized(
                        "GET", f"/v2/{namespace}/app/manifests/{digest}", headers={"Accept": saved.OCI_MANIFEST}
                    ).body
                ),
                "platform": {"os": "linux", "architecture": architecture},
            }
            for architecture, digest in digests.items()
        ]
        index = {"schemaVersion": 2, "mediaType": saved.OCI_INDEX, "manifests": entries}
        digest = registry.push_manifest(f"{namespace}/app", "multi", json.dumps(index).encode(), saved.OCI_INDEX)
        reference = image.replace(":v1", ":multi")
        layout = f"oci:{tmp_path}/layout:multi"
        assert copy(reference, layout)["results"][0]["target"] == digest
        assert copy(layout, image.replace("/app:v1", "/back:multi"))["results"][0]["target"] == digest
        one = copy(layout, image.replace("/app:v1", "/back:s390x"), "--platform", "linux/s390x")
        assert one["results"][0]["target"] == digests["s390x"]
        absent = copy(layout, f"docker-archive:{tmp_path}/x.tar:a:b", "--platform", "linux/arm64", code=2)
        assert absent["error"]["code"] == "SOURCE_ABSENT"
        assert "linux/amd64" in absent["error"]["what"]


class TestLargeLayers:
    LAYER = b"0123456789abcdef" * (40 * 65_536)  # is sent in pieces

    @pytest.fixture
    def large(self, registry: Registry, namespace: str) -> str:
        registry.push_image(f"{namespace}/large", "v1", [self.LAYER])
        return f"{registry.host}/{namespace}/large:v1"

    @pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
    def test_they_are_copied_there_and_back(self, large: str, tmp_path: Path, form: str) -> None:
        place = f"{form}:{tmp_path}/image:large:v1"
        assert outcomes(copy(large, place)) == ["moved"]
        back = copy(place, large.replace("/large:", "/back:"))
        assert outcomes(back) == ["moved"]

    def test_a_broken_connection_does_not_break_the_copy(
        self, large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, count = BlobStream.read, 0

        def break_off(self: BlobStream, *size: int) -> bytes:
            nonlocal count
            count += 1
            if count in {20, 35}:
                raise SynclineError("UNREACHABLE", "the connection broke")
            return read(self, *size)

        monkeypatch.setattr(BlobStream, "read", break_off)
        for form in ("oci", "docker-archive"):
            count = 0
            place = f"{form}:{tmp_path}/{form}:large:v1"
            assert outcomes(copy(large, place)) == ["moved"]
            assert count > 35
        layer = tmp_path / "oci/blobs/sha256" / saved.sha(self.LAYER)
        assert layer.read_bytes() == self.LAYER

    def test_memory_does_not_grow_with_them(self, large: str, tmp_path: Path) -> None:
        for form in ("oci", "oci-archive", "docker-archive"):
            place = f"{form}:{tmp_path}/{form}:large:v1"
            for source, target in ((large, place), (place, large.replace("/large:", f"/{form}:"))):
                tracemalloc.start()
                copy(source, target)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < 16 * 1024 * 1024


class TestDocker:
    def test_skopeo_reads_a_docker_archive(self, skopeo: Run, image: str, tmp_path: Path) -> None:
        place = f"docker-archive:{tmp_path}/image.tar"
        copy(image, f"{place}:team/app:v1")
        ours = config_of(skopeo, f"{place}:team/app:v1")
        assert ours == config_of(skopeo, f"docker://{image}", "--tls-verify=false")
        assert outcomes(copy(image, f"{place}:team/app:v1")) == ["skipped"]

    def test_a_docker_archive_of_skopeo_is_read(self, skopeo: Run, image: str, tmp_path: Path) -> None:
        place = f"docker-archive:{tmp_path}/image.tar:team/app:v1"
        skopeo("copy", "--src-tls-verify=false", f"docker://{image}", place)
        target = image.replace("/app:", "/back:")
        assert outcomes(copy(place, target)) == ["moved"]
        assert config_of(skopeo, f"docker://{target}", "--tls-verify=false") == config_of(skopeo, place)
        # The manifest that is made for an archive is always the same.
        assert outcomes(copy(place, target)) == ["skipped"]

    def test_compressed_layers_of_crane_are_read(self, crane: Run, image: str, tmp_path: Path) -> None:
        crane("pull", "--format=tarball", image, str(tmp_path / "crane.tar"), "--insecure")
        target = image.replace("/app:", "/back:")
        assert outcomes(copy(f"docker-archive:{tmp_path}/crane.tar", target)) == ["moved"]
        assert crane("config", target, "--insecure") == crane("config", image, "--insecure")

    def test_crane_pushes_a_docker_archive(self, crane: Run, image: str, tmp_path: Path) -> None:
        copy(image, f"docker-archive:{tmp_path}/ours.tar")
        crane("push", str(tmp_path / "ours.tar"), image.replace("/app:", "/crane:"), "--insecure")
        assert crane("config", image.replace("/app:", "/crane:"), "--insecure") == crane("config", image, "--insecure")

    def test_docker_loads_and_saves(self, docker: Run, loaded: str, skopeo: Run, image: str, tmp_path: Path) -> None:
        copy(image, f"docker-archive:{tmp_path}/ours.tar:{loaded}")
        docker("load", "--input", str(tmp_path / "ours.tar"))
        docker("save", "--output", str(tmp_path / "theirs.tar"), loaded)
        target = image.replace("/app:", "/back:")
        assert outcomes(copy(f"docker-archive:{tmp_path}/theirs.tar", target)) == ["moved"]
        config = config_of(skopeo, f"docker://{target}", "--tls-verify=false")
        assert config["rootfs"]["diff_ids"] == [f"sha256:{saved.sha(layer)}" for layer in LAYERS]

    def test_images_go_to_the_daemon_and_back(self, docker: Run, loaded: str, image: str, registry: Registry) -> None:
        assert outcomes(copy_with_daemon(image, f"docker-daemon:{loaded}")) == ["moved"]
        assert docker("image", "inspect", "--format", "{{.Os}}", loaded).strip() == b"linux"
        assert outcomes(copy_with_daemon(image, f"docker-daemon:{loaded}")) == ["skipped"]
        target = image.replace("/app:", "/back:")
        assert outcomes(copy_with_daemon(f"docker-daemon:{loaded}", target)) == ["moved"]
        other = image.replace("/app:", "/other:")
        registry.push_image(other.partition("/")[2].removesuffix(":v1"), "v1", [saved.layer({"c": b"other"})])
        assert outcomes(copy_with_daemon(other, f"docker-daemon:{loaded}", code=1)) == ["conflict"]
        assert outcomes(copy_with_daemon(other, f"docker-daemon:{loaded}", "--overwrite")) == ["moved"]

    @pytest.mark.usefixtures("docker")
    def test_an_absent_image_of_the_daemon_is_an_error(self, image: str) -> None:
        assert copy_with_daemon("docker-daemon:absent/never:v1", image, code=2)["error"]["code"] == "SOURCE_ABSENT"

    def test_without_a_daemon_the_error_says_so(
        self, image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
        assert copy("docker-daemon:app:v1", image, code=2)["error"]["code"] == "UNREACHABLE"


@pytest.mark.parametrize("packed", [False, True])
def test_the_layers_of_an_archive_keep_their_bytes(
    image: str, registry: Registry, tmp_path: Path, packed: bool
) -> None:
    layer = saved.layer({"x": b"content"})
    stored = gzip.compress(layer, mtime=0) if packed else layer
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{saved.sha(layer)}"]}}).encode()
    manifest = [{"Config": f"{saved.sha(config)}.json", "RepoTags": ["a:b"], "Layers": ["x/layer.tar"]}]
    entries = [
        (f"{saved.sha(config)}.json", config),
        ("x/layer.tar", stored),
        ("manifest.json", json.dumps(manifest).encode()),
    ]
    (tmp_path / "a.tar").write_bytes(saved.tar(entries))
    target = image.replace("/app:", "/back:")
    copy(f"docker-archive:{tmp_path}/a.tar", target)
    repository = target.partition("/")[2].removesuffix(":v1")
    assert registry.authorized("GET", f"/v2/{repository}/blobs/sha256:{saved.sha(stored)}").body == stored
    assert registry.authorized("GET", f"/v2/{repository}/blobs/sha256:{saved.sha(config)}").body == config
