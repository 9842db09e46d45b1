"""The commands of `syncline` for images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from syncline.cli.command import NAME, command, new_app
from syncline.cli.context import CommandResult, Context

_CA: Final = typer.Option("--ca", metavar="FILE", help="File with the authority of the registries' certificates.")
_OVERWRITE: Final = typer.Option("--overwrite", help="Replace tags that have another image.", show_default=False)

app = new_app()


@command(
    app,
    "copy quay.example/team/app:v1 registry.example/mirror/app:v1",
    "copy quay.example/team/app oci:/srv/layout --all-tags",
    "copy docker-archive:app.tar registry.example/team/app:v1",
    "copy docker-daemon:app:v1 oci-archive:app.tar",
)
def copy(  # noqa: PLR0913 - each is an option
    context: Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="HOST/REPOSITORY:TAG, oci:FOLDER[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] or "
            "docker-daemon:NAME.",
            show_default=False,
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same forms.", show_default=False)],
    *,
    all_tags: Annotated[bool, typer.Option("--all-tags", help="Copy all tags of the repository.")] = False,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Copy the tags that match, such as v1.*; repeatable.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    platform: Annotated[
        str | None,
        typer.Option(
            metavar="OS/ARCH", help="Copy only this platform. Defaults to this machine's, for Docker targets."
        ),
    ] = None,
    ca: Annotated[Path | None, _CA] = None,
) -> CommandResult:
    """Copy images between registries, OCI layouts and Docker."""
    from syncline.kinds.images.cli import copy as command_copy  # noqa: PLC0415

    return command_copy.copy(
        context, source, target, all_tags=all_tags, select=select or [], overwrite=overwrite, platform=platform, ca=ca
    )


@command(
    app,
    "export prod --to /media/usb/bundle-7.tar",
    "export prod --to /media/usb/all --full  # everything, for a new target",
)
def export(
    context: Context,
    name: Annotated[str, NAME],
    *,
    to: Annotated[
        Path, typer.Option(metavar="PATH", help="New folder, or FILE.tar, for the bundle.", show_default=False)
    ],
    full: Annotated[
        bool, typer.Option("--full", help="Include what earlier bundles have.", show_default=False)
    ] = False,
) -> CommandResult:
    """Write the images that changed since the last bundle to a folder or file."""
    from syncline.kinds.images.cli import export as command_export  # noqa: PLC0415

    return command_export.export(context, name, to, full=full)


@command(app, "import /media/usb/bundle-7.tar --to registry.example/mirror")
def import_(
    context: Context,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder or file of `export`.", show_default=False)],
    *,
    to: Annotated[str, typer.Option(metavar="REGISTRY[/PREFIX]", help="Where the images go.", show_default=False)],
    overwrite: Annotated[bool, _OVERWRITE] = False,
    ca: Annotated[Path | None, _CA] = None,
) -> CommandResult:
    """Verify a bundle and copy its images to a registry."""
    from syncline.kinds.images.cli import import_bundle  # noqa: PLC0415

    return import_bundle.import_bundle(context, bundle, to, overwrite=overwrite, ca=ca)
