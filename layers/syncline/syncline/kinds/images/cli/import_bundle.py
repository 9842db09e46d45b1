"""``syncline import``: a bundle is verified, copied to a registry, and read back."""

from __future__ import annotations

from pathlib import Path

from syncline.cli import error_output
from syncline.cli.context import CommandResult, Context
from syncline.clients.layout.contents import files_at
from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.bundles import BundleReader
from syncline.kinds.images.cli.export import scanned
from syncline.kinds.images.cli.places import Process, registry_address, rules
from syncline.kinds.images.cli.settle import Report
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.parts import check_blobs
from syncline.kinds.images.signatures import NO_RULES
from syncline.text import size


def import_bundle(context: Context, path: Path, to: str, *, overwrite: bool, ca: Path | None) -> CommandResult:
    """Import a bundle. The same command continues an interrupted import: what the target has is not sent again.

    Raises ARCHIVE_INVALID and ARCHIVE_REFUSED before anything is sent, and BUNDLE_MISSING.
    """
    with error_output.exit_on_error(context, kind="images"):
        location, prefix = _target(to)
        process, report = Process(ca), Report(context)
        target = process.registry(location)
        with process.interruptible():
            reader = BundleReader(str(path), files_at(path.expanduser().absolute()), target)
            read = reader.check()
            context.out.line(f"{reader.bundle.id}: {size(read)} verified", "dim")
            below = f"{prefix}/" if prefix else ""
            facts = ProcessFacts()
            locations = BlobLocations(facts)
            reader.check_predecessor(below, locations)
            # Referrers may be new for an image that the target has already.
            sync = rules(overwrite=overwrite, prefix=prefix, referrers="always")
            source, notes = RegistryClients(reader, None), TargetNotes(facts, target.host)
            kind = Images(sync, source, RegistryClients(target, None), process.http, locations, notes, NO_RULES)
            for results, page in scanned(kind, kind, process.context):
                report.add(results)
                report.count(equal=page.equal, left_out=page.left_out)
            if not report.is_bad:
                back = check_blobs(target, reader.blobs(below))
                context.out.line(f"{size(back)} read back from {target.host} and verified", "dim")
        return report.end(f"{reader.bundle.id} → {to}", bundle=reader.bundle.id, predecessor=reader.bundle.predecessor)


def _target(to: str) -> tuple[str, str]:
    """Return the address of the registry, and the prefix. Raises USAGE, REFERENCE_INVALID."""
    scheme, separator, rest = to.partition("://")
    if separator and scheme not in ("http", "https", "docker"):
        raise SynclineError("USAGE", f"--to {to!r} is not a registry; write HOST or HOST/PREFIX")
    host, _, prefix = (rest if separator else to).partition("/")
    prefix = prefix.strip("/")
    return registry_address(scheme if separator else "", host), parse_repository(prefix) if prefix else ""
