"""``download``, ``prepare``, ``push``, ``clean`` and ``retag``: the sync step by step, with the code of the functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from syncline.cli.context import NOT_DONE, SOME_FAILED, CommandResult
from syncline.cli.output import Output
from syncline.clients.github.client import Artifact
from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Destination
from syncline.kinds.artifacts.cli.downloads import METADATA, PLAN, DownloadFolder, LocalFile, download_file
from syncline.kinds.artifacts.cli.setup import UNLIMITED, Setup
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.find_archive import ImageArchive, candidate_artifacts, find_archive
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.transfer import ImagePusher
from syncline.kinds.artifacts.verify import check_parts, fingerprint_of, is_complete, verify_items
from syncline.kinds.kind import Failure
from syncline.model import Item
from syncline.text import size

_AT_ONCE: Final = 2  # images pushed concurrently


def download(setup: Setup, out: Output, image_tag: str, output_dir: Path, *, force: bool) -> CommandResult:
    """``download``: fetch the artifacts and metadata of the latest run of an image tag.

    Complete files on disk are kept. A new file replaces the old one once it is complete, so that a good copy is never
    lost.
    """
    folder = DownloadFolder.of(output_dir, image_tag)
    build = setup.build(image_tag, time.time())
    repository = setup.sync.source.repository
    found = setup.github.artifacts(repository, build.run.id, setup.invalid_entries.append)
    known = _digests(folder)
    intact = {a.id: digest for a in found if (digest := _intact_digest(folder, a, known)) is not None}
    # Copies of artifacts that GitHub has removed since.
    kept = [artifact for artifact in found if artifact.expired and artifact.id in intact]
    if force or not kept or any(not artifact.expired for artifact in found):
        kept += candidate_artifacts(found, setup.sync.build, f"run {build.run.id}")
    artifacts: list[dict[str, Any]] = []
    for artifact in kept:
        file = _file(artifact)
        if artifact.id in intact and (artifact.expired or not force):
            out.line(f"{artifact.name} already downloaded")
            digest, bytes_ = intact[artifact.id], LocalFile(folder, file).size
        else:
            content = setup.github.content(repository, artifact)
            received, digest = download_file(content, folder, file, artifact.digest, anew=force)
            bytes_ = content.size
            folder.remove_plan()
            out.line(f"{artifact.name}: {size(received)}")
        artifacts.append({"id": artifact.id, "name": artifact.name, "file": file, "digest": digest, "size": bytes_})
    run = build.run
    value = {
        "image_tag": image_tag,
        "run": {"id": run.id, "attempt": run.attempt, "url": run.url, "created": run.created},
        "metadata": dict(build.block),
        "artifacts": artifacts,
        "images": list(map(asdict, build.destinations)),
    }
    folder.write(METADATA, value)
    out.hint(f"syncline artifacts prepare {image_tag}", "to verify it")
    return CommandResult(value)


def _file(artifact: Artifact) -> str:
    return f"{artifact.id}.zip"


def _digests(folder: DownloadFolder) -> dict[str, str]:
    """Return the digests that files had when they were downloaded."""
    try:
        return {each["file"]: each["digest"] for each in folder.read(METADATA, "download")["artifacts"]}
    except (SynclineError, KeyError, TypeError):
        return {}  # no readable record: only GitHub's digests are known


def _intact_digest(folder: DownloadFolder, artifact: Artifact, known: dict[str, str]) -> str | None:
    """Return the digest of an artifact's file on disk if it matches GitHub's or that of the download, else None."""
    digest = artifact.digest or known.get(_file(artifact))
    return digest if digest is not None and folder.digest(_file(artifact)) == digest else None


def prepare(setup: Setup, out: Output, image_tag: str, downloads_dir: Path, *, clean: bool) -> CommandResult:
    """``prepare``: verify every expected image in the downloads, and write the upload plan."""
    folder = DownloadFolder.of(downloads_dir, image_tag)
    if clean:
        folder.remove_plan()
    metadata = folder.read(METADATA, f"syncline artifacts download {image_tag}")
    images: list[dict[str, Any]] = []
    for entry in metadata["images"]:
        destination = Destination(**entry)
        archive, wanted = _archive(setup, folder, metadata, destination)
        image = examine(archive.open(None), archive.where, wanted)
        images.append({**entry, "archive": archive.where, "config": image.fingerprint, "layers": list(image.layers)})
        out.line(f"{destination.image}: {image.fingerprint[:19]}, {len(image.layers)} layers → {destination}")
    plan = {"image_tag": image_tag, "registry": setup.target.registry.host, "images": images}
    folder.write(PLAN, plan)
    out.hint(f"syncline artifacts push {image_tag}", "to push them to the registry")
    return CommandResult(plan)


def push(  # noqa: PLR0913 - each is an option
    setup: Setup,
    out: Output,
    image_tag: str,
    downloads_dir: Path,
    *,
    force: bool,
    yes: bool,
    verbose: bool,
    retag_as_latest: bool,
    **_: object,
) -> CommandResult:
    """``push``: push prepared images to the registry; an existing tag is replaced only with ``force``."""
    if not yes and not _confirm(
        out, f"Push the images of {image_tag} to {setup.target.registry.host}?", "nothing was pushed"
    ):
        return CommandResult(code=NOT_DONE)
    folder = DownloadFolder.of(downloads_dir, image_tag)
    metadata = folder.read(METADATA, f"syncline artifacts download {image_tag}")
    plan = folder.read(PLAN, f"syncline artifacts prepare {image_tag}")
    known = KnownLayers(setup.memory, setup.target.registry)
    aliases = ["latest"] if retag_as_latest else []

    def push_image(entry: dict[str, Any]) -> dict[str, Any]:
        destination = Destination(entry["image"], _target_repository(setup, entry["repository"]), entry["tag"])
        find = partial(_archive, setup, folder, metadata, destination)
        try:
            result = _push(setup.target.registry, known, destination, entry["config"], find, aliases, force=force)
        except SynclineError as error:
            outcome = "conflict" if error.code.name == "TAG_DIFFERS" else "failed"
            result = {"outcome": outcome, "code": error.code.name, "reason": error.what}
        return {"target": str(destination), **result}

    results = []
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push") as pool:
        for result in pool.map(push_image, plan["images"]):
            results.append(result)
            _print_result(out, result, verbose=verbose)
    failed = any("code" in result for result in results)
    return CommandResult({"image_tag": image_tag, "images": results}, SOME_FAILED if failed else 0)


def _push(  # noqa: PLR0913, PLR0917 - each is needed
    registry: Registry,
    known: KnownLayers,
    destination: Destination,
    prepared: str,
    find: Callable[[], tuple[ImageArchive, WantedImage]],
    aliases: list[str],
    *,
    force: bool,
) -> dict[str, Any]:
    """Push an image and return its result. ``prepared`` is the fingerprint that `prepare` found."""
    repository, tag = destination.repository, destination.tag
    present, same = registry.manifest_digest(repository, tag), False
    if present is not None and not force:
        manifest = registry.manifest(repository, tag)
        same = fingerprint_of(manifest) == prepared
        if same and is_complete(registry, repository, tag):
            return {"outcome": "skipped", "digest": present}
        # The digest of an index may change in transfer, so only pushing it again shows a difference.
        if not same and not manifest.is_index:
            raise _conflict(destination, fingerprint_of(manifest), prepared)
    archive, wanted = find()
    pusher = ImagePusher(registry, repository, known, UNLIMITED)
    written = pusher.push(archive.open, archive.where, wanted, ImageProgress())
    assert written is not None, "the time limit is not reached"
    if written.saved != prepared:
        raise SynclineError("ARCHIVE_INVALID", f"{archive.where} changed since `prepare`; run `prepare` again")
    if present == written.manifest.digest and not force:
        return {"outcome": "skipped", "digest": present}
    if present is not None and not same and not force:
        raise _conflict(destination, present, written.manifest.digest)
    check_parts(registry, repository, written.manifest)
    registry.put_tag(repository, tag, written.manifest, present, overwrite=force)
    for alias in aliases:
        registry.put_manifest(repository, alias, written.manifest)
    for answer in verify_items(
        registry, [Item(repository, name, written.fingerprint) for name in (tag, *aliases)], UNLIMITED
    ):
        if isinstance(answer, Failure):
            raise answer.error
    return {"outcome": "moved", "digest": written.manifest.digest, "config": written.fingerprint, "bytes": pusher.sent}


def _conflict(destination: Destination, present: str, wanted: str) -> SynclineError:
    return SynclineError("TAG_DIFFERS", f"{destination} is the image {present}, not {wanted}; `--force` replaces it")


def _print_result(out: Output, result: dict[str, Any], *, verbose: bool) -> None:
    words = result.get("reason") or (size(result["bytes"]) if "bytes" in result else "already in the registry")
    out.line(f"{result['outcome']}  {result['target']}  {words}", "red" if "code" in result else "")
    if verbose and "digest" in result:
        out.table([(key, str(result[key])) for key in ("digest", "config") if key in result], indent=2)


def clean(_setup: Setup, out: Output, image_tag: str, downloads_dir: Path, *, yes: bool) -> CommandResult:
    """``clean``: remove the downloads and the plan of an image tag."""
    if not yes and not _confirm(
        out, f"Remove the downloads of {image_tag} from {downloads_dir}?", "nothing was removed"
    ):
        return CommandResult(code=NOT_DONE)
    folder = DownloadFolder.of(downloads_dir, image_tag)
    removed = folder.remove()
    out.line(f"{folder} {'removed' if removed else 'does not exist'}")
    return CommandResult({"image_tag": image_tag, "removed": removed})


def _confirm(out: Output, question: str, otherwise: str) -> bool:
    """Ask for confirmation, except with ``--json``; print ``otherwise`` if it is refused."""
    if out.as_json or out.confirm(question):
        return True
    out.line(otherwise)
    return False


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


def _archive(
    setup: Setup, folder: DownloadFolder, metadata: dict[str, Any], destination: Destination
) -> tuple[ImageArchive, WantedImage]:
    """Return the downloaded archive of an image, and what to read from it."""
    image, tag, rules = destination.image, str(metadata["image_tag"]), setup.sync.build
    files = [LocalFile(folder, Path(str(entry["file"])).name) for entry in metadata["artifacts"]]
    wanted = WantedImage(image, tag, lambda name: rules.is_archive(name, image, tag))
    return find_archive(files, rules, image, tag), wanted
