"""``syncline export``: the images of a sync that changed since its last bundle, as a new bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from syncline.cli import error_output
from syncline.cli.commands_run import config_of
from syncline.cli.context import CommandResult, Context
from syncline.clients.folder.directory import Directory
from syncline.clients.layout.folder import pack, write_sums
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.bundles import BUNDLE, UNFINISHED, BundleFolder, BundleManifest, ExportedImages, ExportRecord
from syncline.kinds.images.cli.places import Process
from syncline.kinds.images.cli.settle import Report, failed_result, settle
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.images.wiring import quay_at, store_at
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Item, Result

_RECORDS: Final = "exports"


def export(context: Context, name: str, to: Path, *, full: bool) -> CommandResult:
    """Write a bundle, or continue one that was interrupted.

    Raises NO_SUCH_SYNC, USAGE for a sync of another kind or a folder with another export, and WOULD_OVERWRITE.
    """
    with error_output.exit_on_error(context, kind="images"):
        return _export(context, name, to, full=full)


def _export(context: Context, name: str, to: Path, *, full: bool) -> CommandResult:
    sync = load_sync(config_of(context.deployment.state, name))
    if not isinstance(sync, ImagesSync):
        raise SynclineError("USAGE", f"{name} is not a sync of images, so there is nothing to export")
    to = to.expanduser().absolute()
    is_file = to.suffix == ".tar"
    if is_file and to.exists():
        raise SynclineError("WOULD_OVERWRITE", f"{to} exists; name another file for the new bundle")
    records = Directory(context.home / _RECORDS)
    record = ExportRecord.load(records, f"{name}.json")
    if full:
        record = record.without_content()
    directory = Directory(to.with_name(f"{to.name}.syncline") if is_file else to)
    _begin(directory, name, record)
    folder = BundleFolder(directory, str(to), record)
    process, report = Process(), Report(context)
    with process.interruptible():
        try:
            _copy(context, process, sync, folder, report)
        finally:
            folder.flush()
        bundle = folder.close(name, context.now())
        if bundle is None:
            shutil.rmtree(directory.root)
            return report.end(f"{name}: nothing changed since {record.bundles[-1] if record.bundles else 'ever'}")
        directory.remove(UNFINISHED)
        write_sums(directory)
        if is_file:
            with Directory(to.parent).replace(to.name) as file:
                pack(directory, file)
            shutil.rmtree(directory.root)
    record.save(records, f"{name}.json")
    result = report.end(f"{bundle.id} → {to}", bundle=bundle.id, predecessor=bundle.predecessor)
    context.out.hint(f"syncline import {to.name} --to REGISTRY", "at the other side")
    return result


def _begin(directory: Directory, name: str, record: ExportRecord) -> None:
    """Mark a folder as a bundle in the making, or check that it is the same one. Raises USAGE, WOULD_OVERWRITE."""
    if directory.stat(BUNDLE) is not None:
        with directory.open(BUNDLE) as file:
            finished = BundleManifest.parse(file.read(), str(directory.root))
        if finished.id in record.bundles or finished.sync != name:
            what = f"{directory.root} has the bundle {finished.id}; name another folder for the new one"
            raise SynclineError("WOULD_OVERWRITE", what)
    value = {"sync": name, "predecessor": record.bundles[-1] if record.tags else None}
    if directory.stat(UNFINISHED) is not None:
        with directory.open(UNFINISHED) as file:
            if json.load(file) != value:
                what = f"{directory.root} has an unfinished export of another sync or time; remove it, or name another folder"
                raise SynclineError("USAGE", what)
    elif directory.stat(BUNDLE) is None and directory.root.exists() and any(directory.root.iterdir()):
        raise SynclineError("WOULD_OVERWRITE", f"{directory.root} is not empty; name another folder for the new bundle")
    with directory.replace(UNFINISHED) as file:
        file.write(json.dumps(value).encode())


def _copy(context: Context, process: Process, sync: ImagesSync, folder: BundleFolder, report: Report) -> None:
    """Copy what differs from earlier bundles, page by page."""
    parts = context.deployment.dependencies(process.http, context.now)
    source = RegistryClients(store_at(sync.source, parts), quay_at(sync.source, parts))
    facts = ProcessFacts()
    notes, locations = TargetNotes(facts, folder.host), BlobLocations(facts)
    trust = Trust(sync.verify, parts.secrets.text, parts.clock)
    # A bundle in the making has no foreign images: what it has under a tag is an earlier state.
    sync = sync.model_copy(update={"overwrite": True})
    scan, kind = (
        Images(sync, source, RegistryClients(store, None), process.http, locations, notes, trust)
        for store in (ExportedImages.of(folder), folder)
    )
    for results, equal in scanned(scan, kind, process.context):
        report.add(results)
        report.count_equal(equal)


def scanned(scan: Images, kind: Images, context: StepContext) -> Iterator[tuple[Iterator[Result], int]]:
    """Yield the results of each page of a scan, whose items are transferred and verified meanwhile, and the equal ones."""

    def results(page_results: tuple[Result, ...], items: list[list[Item]]) -> Iterator[Result]:
        yield from page_results
        for members in items:
            yield from settle(
                members, lambda some: kind.transfer(some, context), lambda some: kind.verify(some, context)
            )

    for page in scan.discover(EVERYTHING, None, context):
        # What a scan knows of a target without tags does not count here: another repository may have the blobs.
        items = [replace(item, detail={k: v for k, v in item.detail.items() if k != "fresh"}) for item in page.items]
        groups = [list(members) for _, members in groupby(items, key=lambda item: item.group)]
        known = (*page.results, *map(failed_result, page.failures))
        yield results(known, groups), page.equal
