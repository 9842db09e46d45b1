"""``download``, ``prepare``, ``push``, ``clean`` and ``retag``: the steps of a sync as separate commands."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from syncline.cli.context import SOME_FAILED, Answer
from syncline.cli.show import Out, size
from syncline.clients.github.client import Artifact
from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Destination
from syncline.kinds.artifacts.cli.files import METADATA, PLAN, Folder, LocalFile, download
from syncline.kinds.artifacts.cli.setup import Setup
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.find_archive import ImageArchive, candidate_artifacts, find_archive
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.transfer import ImagePusher
from syncline.kinds.artifacts.verify import check_parts, fingerprint_of, is_complete, verify_items
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item

_FOR_EVER: Final = StepContext(lambda: 3600.0)
_AT_ONCE: Final = 2
"""Images pushed at the same time."""


def fetch(setup: Setup, out: Out, tag: str, output: Path, *, force: bool) -> Answer:
    """``download``: download the artifacts and metadata of the youngest run of an image tag.

    A complete file on disk is kept. A downloaded file replaces it only when it is complete, so that a good copy is never
    lost.
    """
    folder = Folder.of(output, tag)
    build = setup.build(tag, time.time())
    repository = setup.sync.source.repository
    found = setup.github.artifacts(repository, build.run.id, setup.odd.append)
    before = _digests(folder)
    whole = {a.id: digest for a in found if (digest := _whole(folder, a, before)) is not None}
    # Copies of artifacts that GitHub has removed since; they may be the only ones.
    kept = [artifact for artifact in found if artifact.expired and artifact.id in whole]
    if force or not kept or any(not artifact.expired for artifact in found):
        kept += candidate_artifacts(found, setup.sync.build, f"run {build.run.id}")
    artifacts: list[dict[str, Any]] = []
    for artifact in kept:
        about = {"id": artifact.id, "name": artifact.name, "file": _file(artifact)}
        if artifact.id in whole and (artifact.expired or not force):
            out.line(f"{artifact.name} is there already")
            size_ = LocalFile(folder, _file(artifact)).size
            artifacts.append({**about, "digest": whole[artifact.id], "size": size_})
            continue
        content = setup.github.content(repository, artifact)
        done = download(content, folder, _file(artifact), artifact.digest, anew=force)
        folder.forget_plan()
        out.line(f"{artifact.name}: {size(done.came)}")
        artifacts.append({**about, "digest": done.digest, "size": done.size})
    destinations = [
        {"image": destination.image, "repository": destination.repository, "tag": destination.tag}
        for destination in build.destinations
    ]
    run = {"id": build.run.id, "attempt": build.run.attempt, "url": build.run.url, "created": build.run.created}
    value = {
        "image_tag": tag,
        "run": run,
        "metadata": dict(build.block),
        "artifacts": artifacts,
        "images": destinations,
    }
    folder.write(METADATA, value)
    out.follow_up(f"syncline artifacts prepare {tag}", "verifies it")
    return Answer(value)


def _file(artifact: Artifact) -> str:
    return f"{artifact.id}.zip"


def _digests(folder: Folder) -> dict[str, str]:
    """Return the digests of files at the time of their download."""
    try:
        return {each["file"]: each["digest"] for each in folder.read(METADATA, "download")["artifacts"]}
    except (SynclineError, KeyError, TypeError):
        return {}  # without a readable record, only GitHub's digests count


def _whole(folder: Folder, artifact: Artifact, before: dict[str, str]) -> str | None:
    """Return the digest of an artifact's file if it equals GitHub's, or the one at the time of the download."""
    digest = artifact.digest or before.get(_file(artifact))
    return digest if digest is not None and folder.digest(_file(artifact)) == digest else None


def prepare(setup: Setup, out: Out, tag: str, downloads: Path, *, clean: bool) -> Answer:
    """``prepare``: verify every expected image in the downloads, and write the plan of their destinations."""
    folder = Folder.of(downloads, tag)
    if clean:
        folder.forget_plan()
    about = folder.read(METADATA, f"syncline artifacts download {tag}")
    images: list[dict[str, Any]] = []
    for entry in about["images"]:
        destination = Destination(entry["image"], entry["repository"], entry["tag"])
        found = _found(setup, folder, about, destination, tag)
        image = examine(found.open(None), found.where, _wanted(setup, destination, tag))
        target = {"image": destination.image, "repository": destination.repository, "tag": destination.tag}
        images.append({**target, "archive": found.where, "config": image.fingerprint, "layers": list(image.layers)})
        out.line(f"{destination.image}: {image.fingerprint[:19]}, {len(image.layers)} layers → {destination}")
    plan = {"image_tag": tag, "registry": setup.target.registry.host, "images": images}
    folder.write(PLAN, plan)
    out.follow_up(f"syncline artifacts push {tag}", "brings them to the registry")
    return Answer(plan)


@dataclass(frozen=True, slots=True)
class Pushing:
    """The options of ``push``."""

    force: bool = False
    aliases: tuple[str, ...] = ()
    verbose: bool = False


def push(setup: Setup, out: Out, tag: str, downloads: Path, how: Pushing) -> Answer:
    """``push``: push the prepared images to the registry; an existing tag is replaced only with ``--force``."""
    folder = Folder.of(downloads, tag)
    about = folder.read(METADATA, f"syncline artifacts download {tag}")
    plan = folder.read(PLAN, f"syncline artifacts prepare {tag}")
    known = KnownLayers(setup.memory, setup.target.registry)

    def one(entry: dict[str, Any]) -> dict[str, Any]:
        destination = Destination(entry["image"], _moved(setup, entry["repository"]), entry["tag"])
        try:
            return {"target": str(destination), **_push(setup, known, folder, about, destination, entry, how)}
        except SynclineError as error:
            outcome = "conflict" if error.code.name == "TAG_DIFFERS" else "failed"
            return {"target": str(destination), "outcome": outcome, "code": error.code.name, "reason": error.what}

    results = []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push") as pool:
        for result in pool.map(one, plan["images"]):
            results.append(result)
            _tell(out, result, verbose=how.verbose)
    failed = any(result["outcome"] in {"failed", "conflict"} for result in results)
    return Answer({"image_tag": tag, "images": results}, SOME_FAILED if failed else 0)


def _push(  # noqa: PLR0913, PLR0917 - each is needed
    setup: Setup,
    known: KnownLayers,
    folder: Folder,
    about: dict[str, Any],
    destination: Destination,
    entry: dict[str, Any],
    how: Pushing,
) -> dict[str, Any]:
    registry = setup.target.registry
    present, same = registry.manifest_digest(destination.repository, destination.tag), False
    if present is not None and not how.force:
        manifest = registry.manifest(destination.repository, destination.tag)
        same = fingerprint_of(manifest) == entry["config"]
        if same and is_complete(registry, destination.repository, destination.tag):
            return {"outcome": "skipped", "digest": present}
        # The digest of an index may change in the push, so it is compared after pushing again.
        if not same and not manifest.is_index:
            raise _differs(destination, fingerprint_of(manifest), entry["config"])
    tag = str(about["image_tag"])
    found = _found(setup, folder, about, destination, tag)
    pushing = ImagePusher(registry, destination.repository, known, _FOR_EVER)
    written = pushing.push(found.open, found.where, _wanted(setup, destination, tag), ImageProgress())
    assert written is not None, "there is all the time in the world"
    if written.saved != entry["config"]:
        raise SynclineError("ARCHIVE_INVALID", f"{found.where} is no longer what was prepared; prepare it again")
    if present == written.manifest.digest and not how.force:
        return {"outcome": "skipped", "digest": present}
    if present is not None and not same and not how.force:
        raise _differs(destination, present, written.manifest.digest)
    check_parts(registry, destination.repository, written.manifest)
    registry.put_tag(destination.repository, destination.tag, written.manifest, present, overwrite=how.force)
    for alias in how.aliases:
        registry.put_manifest(destination.repository, alias, written.manifest)
    _verify(
        registry, [Item(destination.repository, name, written.fingerprint) for name in (destination.tag, *how.aliases)]
    )
    return {"outcome": "moved", "digest": written.manifest.digest, "config": written.fingerprint, "bytes": pushing.sent}


def _verify(registry: Registry, items: list[Item]) -> None:
    for answer in verify_items(registry, items, _FOR_EVER):
        if isinstance(answer, Failure):
            raise answer.error


def _differs(destination: Destination, present: str, wanted: str) -> SynclineError:
    return SynclineError("TAG_DIFFERS", f"{destination} is the image {present}, not {wanted}; `--force` replaces it")


def _tell(out: Out, result: dict[str, Any], *, verbose: bool) -> None:
    words = result.get("reason") or (size(result["bytes"]) if "bytes" in result else "is there already")
    out.line(f"{result['outcome']}  {result['target']}  {words}", "red" if "code" in result else "")
    if verbose and "digest" in result:
        out.table([(key, str(result[key])) for key in ("digest", "config") if key in result], indent=2)


def clean(out: Out, tag: str, downloads: Path) -> Answer:
    """``clean``: remove the downloads and the plan of an image tag."""
    folder = Folder.of(downloads, tag)
    removed = folder.remove()
    out.line(f"{folder} {'is removed' if removed else 'was not there'}")
    return Answer({"image_tag": tag, "removed": removed})


def retag(setup: Setup, out: Out, source: str, destination: str) -> Answer:
    """``retag``: put the manifest of one tag under another tag of the same repository, without copying layers."""
    registry = setup.target.registry
    (repository, tag), (other, alias) = (_reference(setup, text) for text in (source, destination))
    if repository != other:
        raise SynclineError(
            "USAGE", f"{source} and {destination} are not of one repository, so layers would have to move"
        )
    manifest = registry.manifest(repository, tag)
    registry.put_manifest(repository, alias, manifest)
    out.line(f"{repository}:{alias} is {manifest.digest}, as {tag}")
    return Answer({"target": f"{repository}:{alias}", "digest": manifest.digest, "config": fingerprint_of(manifest)})


def _reference(setup: Setup, text: str) -> tuple[str, str]:
    """Return the repository and tag of ``x86/app:tag``, adding the project if it is missing."""
    name, colon, tag = text.removeprefix(f"{setup.target.registry.host}/").rpartition(":")
    if not colon:
        raise SynclineError("USAGE", f"{text!r} has no tag; write repository:tag")
    project = setup.sync.target.project
    repository = name if name == project or name.startswith(f"{project}/") else f"{project}/{name}"
    return parse_repository(repository), parse_tag(tag)


def _moved(setup: Setup, repository: str) -> str:
    """Return a repository of the plan, below the current project (``--registry-project``)."""
    project = setup.sync.target.project
    if repository.startswith(f"{project}/"):
        return repository
    for below in setup.sync.build.repositories():
        if repository.endswith(f"/{below}"):
            return f"{project}/{below}"
    return repository


def _found(setup: Setup, folder: Folder, about: dict[str, Any], destination: Destination, tag: str) -> ImageArchive:
    files = [LocalFile(folder, Path(str(entry["file"])).name) for entry in about["artifacts"]]
    return find_archive(files, setup.sync.build, destination.image, tag)


def _wanted(setup: Setup, destination: Destination, tag: str) -> WantedImage:
    rules = setup.sync.build
    return WantedImage(destination.image, tag, lambda name: rules.is_archive(name, destination.image, tag))
