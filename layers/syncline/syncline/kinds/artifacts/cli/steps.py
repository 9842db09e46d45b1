"""``download``, ``prepare``, ``push``, ``clean`` and ``retag``: the sync step by step, with the code of the functions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from syncline.cli.context import SOME_FAILED, CommandResult
from syncline.cli.output import Output, size
from syncline.clients.github.client import Artifact
from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Destination
from syncline.kinds.artifacts.cli.downloads import METADATA, PLAN, DownloadFolder, LocalFile, download
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
"""Images pushed concurrently."""


def fetch(setup: Setup, out: Output, tag: str, output: Path, *, force: bool) -> CommandResult:
    """``download``: fetch the artifacts and metadata of the latest run of an image tag.

    Complete files on disk are kept. A new file replaces the old one once it is complete, so that a good copy is never
    lost.
    """
    folder = DownloadFolder.of(output, tag)
    build = setup.build(tag, time.time())
    repository = setup.sync.source.repository
    found = setup.github.artifacts(repository, build.run.id, setup.odd.append)
    before = _digests(folder)
    intact = {a.id: digest for a in found if (digest := _intact_digest(folder, a, before)) is not None}
    # Copies of artifacts that GitHub has removed since.
    kept = [artifact for artifact in found if artifact.expired and artifact.id in intact]
    if force or not kept or any(not artifact.expired for artifact in found):
        kept += candidate_artifacts(found, setup.sync.build, f"run {build.run.id}")
    artifacts: list[dict[str, Any]] = []
    for artifact in kept:
        about = {"id": artifact.id, "name": artifact.name, "file": _file(artifact)}
        if artifact.id in intact and (artifact.expired or not force):
            out.line(f"{artifact.name} already downloaded")
            size_ = LocalFile(folder, _file(artifact)).size
            artifacts.append({**about, "digest": intact[artifact.id], "size": size_})
            continue
        content = setup.github.content(repository, artifact)
        done = download(content, folder, _file(artifact), artifact.digest, anew=force)
        folder.remove_plan()
        out.line(f"{artifact.name}: {size(done.received)}")
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
    out.hint(f"syncline artifacts prepare {tag}", "to verify it")
    return CommandResult(value)


def _file(artifact: Artifact) -> str:
    return f"{artifact.id}.zip"


def _digests(folder: DownloadFolder) -> dict[str, str]:
    """Return the digests of files at their download."""
    try:
        return {each["file"]: each["digest"] for each in folder.read(METADATA, "download")["artifacts"]}
    except (SynclineError, KeyError, TypeError):
        return {}  # no readable record: only GitHub's digests are known


def _intact_digest(folder: DownloadFolder, artifact: Artifact, before: dict[str, str]) -> str | None:
    """Return the digest of an artifact's file on disk if it matches GitHub's or that of the download, else None."""
    digest = artifact.digest or before.get(_file(artifact))
    return digest if digest is not None and folder.digest(_file(artifact)) == digest else None


def prepare(setup: Setup, out: Output, tag: str, downloads: Path, *, clean: bool) -> CommandResult:
    """``prepare``: verify every expected image in the downloads, and write the upload plan."""
    folder = DownloadFolder.of(downloads, tag)
    if clean:
        folder.remove_plan()
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
    out.hint(f"syncline artifacts push {tag}", "to push them to the registry")
    return CommandResult(plan)


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The options of ``push``."""

    force: bool = False
    aliases: tuple[str, ...] = ()
    verbose: bool = False


def push(setup: Setup, out: Output, tag: str, downloads: Path, how: PushOptions) -> CommandResult:
    """``push``: push prepared images to the registry; an existing tag is replaced only with ``force``."""
    folder = DownloadFolder.of(downloads, tag)
    about = folder.read(METADATA, f"syncline artifacts download {tag}")
    plan = folder.read(PLAN, f"syncline artifacts prepare {tag}")
    known = KnownLayers(setup.memory, setup.target.registry)

    def push_image(entry: dict[str, Any]) -> dict[str, Any]:
        destination = Destination(entry["image"], _target_repository(setup, entry["repository"]), entry["tag"])
        try:
            return {"target": str(destination), **_push(setup, known, folder, about, destination, entry, how)}
        except SynclineError as error:
            outcome = "conflict" if error.code.name == "TAG_DIFFERS" else "failed"
            return {"target": str(destination), "outcome": outcome, "code": error.code.name, "reason": error.what}

    results = []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push") as pool:
        for result in pool.map(push_image, plan["images"]):
            results.append(result)
            _print_result(out, result, verbose=how.verbose)
    failed = any(result["outcome"] in {"failed", "conflict"} for result in results)
    return CommandResult({"image_tag": tag, "images": results}, SOME_FAILED if failed else 0)


def _push(  # noqa: PLR0913, PLR0917 - each is needed
    setup: Setup,
    known: KnownLayers,
    folder: DownloadFolder,
    about: dict[str, Any],
    destination: Destination,
    entry: dict[str, Any],
    how: PushOptions,
) -> dict[str, Any]:
    registry = setup.target.registry
    present, same = registry.manifest_digest(destination.repository, destination.tag), False
    if present is not None and not how.force:
        manifest = registry.manifest(destination.repository, destination.tag)
        same = fingerprint_of(manifest) == entry["config"]
        if same and is_complete(registry, destination.repository, destination.tag):
            return {"outcome": "skipped", "digest": present}
        # The digest of an index may change in transfer, so only pushing it again shows a difference.
        if not same and not manifest.is_index:
            raise _conflict(destination, fingerprint_of(manifest), entry["config"])
    tag = str(about["image_tag"])
    found = _found(setup, folder, about, destination, tag)
    pushing = ImagePusher(registry, destination.repository, known, _FOR_EVER)
    written = pushing.push(found.open, found.where, _wanted(setup, destination, tag), ImageProgress())
    assert written is not None, "the time limit is not reached"
    if written.saved != entry["config"]:
        raise SynclineError("ARCHIVE_INVALID", f"{found.where} changed since `prepare`; run `prepare` again")
    if present == written.manifest.digest and not how.force:
        return {"outcome": "skipped", "digest": present}
    if present is not None and not same and not how.force:
        raise _conflict(destination, present, written.manifest.digest)
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


def _conflict(destination: Destination, present: str, wanted: str) -> SynclineError:
    return SynclineError("TAG_DIFFERS", f"{destination} is the image {present}, not {wanted}; `--force` replaces it")


def _print_result(out: Output, result: dict[str, Any], *, verbose: bool) -> None:
    words = result.get("reason") or (size(result["bytes"]) if "bytes" in result else "already in the registry")
    out.line(f"{result['outcome']}  {result['target']}  {words}", "red" if "code" in result else "")
    if verbose and "digest" in result:
        out.table([(key, str(result[key])) for key in ("digest", "config") if key in result], indent=2)


def clean(out: Output, tag: str, downloads: Path) -> CommandResult:
    """``clean``: remove the downloads and the plan of an image tag."""
    folder = DownloadFolder.of(downloads, tag)
    removed = folder.remove()
    out.line(f"{folder} {'removed' if removed else 'does not exist'}")
    return CommandResult({"image_tag": tag, "removed": removed})


def retag(setup: Setup, out: Output, source: str, destination: str) -> CommandResult:
    """``retag``: store the manifest of one tag under another tag of the same repository."""
    registry = setup.target.registry
    (repository, tag), (other, alias) = (_reference(setup, text) for text in (source, destination))
    if repository != other:
        raise SynclineError("USAGE", f"{source} and {destination} are in different repositories")
    manifest = registry.manifest(repository, tag)
    registry.put_manifest(repository, alias, manifest)
    out.line(f"{repository}:{alias} is {manifest.digest}, as {tag}")
    return CommandResult(
        {"target": f"{repository}:{alias}", "digest": manifest.digest, "config": fingerprint_of(manifest)}
    )


def _reference(setup: Setup, text: str) -> tuple[str, str]:
    """Return repository and tag of ``x86/app:tag``, below the project unless it begins with the project."""
    name, colon, tag = text.removeprefix(f"{setup.target.registry.host}/").rpartition(":")
    if not colon:
        raise SynclineError("USAGE", f"{text!r} has no tag; write repository:tag")
    project = setup.sync.target.project
    repository = name if name == project or name.startswith(f"{project}/") else f"{project}/{name}"
    return parse_repository(repository), parse_tag(tag)


def _target_repository(setup: Setup, repository: str) -> str:
    """Return a repository of the plan below the current project (``--registry-project``)."""
    project = setup.sync.target.project
    if repository.startswith(f"{project}/"):
        return repository
    for below in setup.sync.build.repositories():
        if repository.endswith(f"/{below}"):
            return f"{project}/{below}"
    return repository


def _found(
    setup: Setup, folder: DownloadFolder, about: dict[str, Any], destination: Destination, tag: str
) -> ImageArchive:
    files = [LocalFile(folder, Path(str(entry["file"])).name) for entry in about["artifacts"]]
    return find_archive(files, setup.sync.build, destination.image, tag)


def _wanted(setup: Setup, destination: Destination, tag: str) -> WantedImage:
    rules = setup.sync.build
    return WantedImage(destination.image, tag, lambda name: rules.is_archive(name, destination.image, tag))
