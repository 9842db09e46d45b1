"""``syncline artifacts``: copy images of builds at GitHub to GitLab, without an engine.

Every command has the options of source and target, so that scripts can pass the same ones to all. Its work is in a
separate module, imported when it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncline.cli import endings
from syncline.cli.command import new_app
from syncline.cli.context import NOT_DONE, SOME_FAILED, Answer, Context
from syncline.cli.show import Out

if TYPE_CHECKING:
    from syncline.kinds.artifacts.cli.setup import Setup

_TAG: Final = typer.Argument(metavar="IMAGE_TAG", help="The build's image tag, as in its log.", show_default=False)
_DOWNLOADS: Final = typer.Option("--downloads-dir", metavar="FOLDER", help="The folder of downloads.")
_YES: Final = typer.Option("--yes", help="Do not ask.", show_default=False)
_LOGIN: Final = typer.Option("--skip-login", help="Accepted without effect: no login is needed.", show_default=False)
_VERBOSE: Final = typer.Option("--verbose", help="Print details of each image.", show_default=False)
_LATEST: Final = typer.Option("--retag-as-latest", help="Also point `latest` at it.", show_default=False)

app = new_app()
artifacts = typer.Typer(
    name="artifacts",
    help="Copy images of builds at GitHub to GitLab, step by step or as a daemon, without an engine.",
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(artifacts)


@artifacts.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    endings.ask_for_command(context)


def _shared(  # noqa: PLR0913 - each is an option
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file with the sync: rules for metadata, images and tags; syncs.yaml here, or else "
            "the shipped examples/artifacts-presto.yaml with the places that options name.",
            show_default=False,
        ),
    ] = None,
    sync: Annotated[
        str | None, typer.Option(metavar="NAME", help="The sync in the file, if it has several of artifacts.")
    ] = None,
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="The repository at GitHub.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="FILE", help="The workflow's file.")] = None,
    branch: Annotated[str | None, typer.Option(help="Only runs on this branch.")] = None,
    limit: Annotated[int | None, typer.Option(help="The number of runs to examine.", min=1, max=1000)] = None,
    gh_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="GITHUB_API_URL", help="The URL of GitHub's API. Defaults to that of github.com."
        ),
    ] = None,
    gh_token: Annotated[
        str | None, typer.Option(envvar=["GH_TOKEN", "GITHUB_TOKEN"], help="A GitHub token.", show_envvar=True)
    ] = None,
    gitlab_host: Annotated[str | None, typer.Option(metavar="HOST", help="The host of GitLab.")] = None,
    gitlab_project: Annotated[
        str | None,
        typer.Option("--gitlab-project", "--registry-project", metavar="PATH", help="The project with the registry."),
    ] = None,
    gitlab_token: Annotated[str | None, typer.Option(envvar="GITLAB_TOKEN", help="A GitLab token.")] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="HOST", help="The registry's host and port; http://HOST for plain HTTP.")
    ] = None,
    registry_username: Annotated[
        str | None,
        typer.Option(envvar=["GITLAB_REGISTRY_USERNAME", "CI_REGISTRY_USER"], help="The user at the registry."),
    ] = None,
    registry_password: Annotated[
        str | None,
        typer.Option(
            envvar=["GITLAB_REGISTRY_PASSWORD", "CI_REGISTRY_PASSWORD"],
            help="The password or token of that user. Defaults to the GitLab token.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> tuple[dict[str, Any], Out]:
    """Return the options that every command has."""
    values: dict[str, Any] = dict(locals())
    return values, Out(as_json=values.pop("as_json"))


def _with_odd(answer: Answer, setup: Setup, out: Out) -> Answer:
    """Report invalid entries of listings; with any, the command has failed in part."""
    if not setup.odd:
        return answer
    reasons = list(dict.fromkeys(odd.error.what for odd in setup.odd))
    for reason in reasons:
        out.line(f"ENTRY_INVALID: {reason}", "red")
    return Answer({**answer.value, "invalid": reasons}, answer.code or SOME_FAILED)


def _command(name: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function of a setup and an output as a command, with the shared options."""

    def made(function: Callable[..., Answer]) -> Callable[..., Answer]:
        names = {"Setup": object, "Any": Any}
        _, _, *own = inspect.signature(function, eval_str=True, locals=names).parameters.values()
        shared = inspect.signature(_shared, eval_str=True).parameters

        def invoke(**given: Any) -> None:
            values, out = _shared(**{each: given.pop(each) for each in shared})
            context = Context(None, None, out)
            with endings.told(context, kind="artifacts"):
                from syncline.kinds.artifacts.cli.setup import Options, Setup  # noqa: PLC0415

                more = {"overwrite": given.get("force_push", False)}
                if given.get("retag_as_latest"):
                    more["aliases"] = ("latest",)
                setup = Setup(Options(**values, **more))
                with setup.interruptible():
                    answer = _with_odd(function(setup, out, **given), setup, out)
                out.value(dict(answer.value))
            raise typer.Exit(answer.code)

        invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
        artifacts.command(name, help=function.__doc__)(invoke)
        return function

    return made


@_command("gh-list")
def gh_list(setup: Setup, out: Out) -> Answer:
    """List the latest builds with the metadata in their logs."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.gh_list(setup, out)


@_command("gitlab-list")
def gitlab_list(setup: Setup, out: Out) -> Answer:
    """List the registry's repositories and tags."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.gitlab_list(setup, out)


@_command("xref")
def xref(
    setup: Setup,
    out: Out,
    *,
    list_extra: Annotated[bool, typer.Option("--list-extra", help="Also tags that no build made.")] = False,
) -> Answer:
    """List images of builds that the registry lacks."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.xref(setup, out, list_extra=list_extra)


@_command("download")
def download(
    setup: Setup,
    out: Out,
    image_tag: Annotated[str, _TAG],
    *,
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of downloads.")] = Path("downloads"),
    force: Annotated[bool, typer.Option("--force", help="Download existing files again.")] = False,
) -> Answer:
    """Download a build's artifacts."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.fetch(setup, out, image_tag, output_dir, force=force)


@_command("prepare")
def prepare(
    setup: Setup,
    out: Out,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    clean: Annotated[bool, typer.Option("--clean", help="Remove an earlier plan first.")] = False,
) -> Answer:
    """Verify the downloads, and plan their destinations."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.prepare(setup, out, image_tag, downloads_dir, clean=clean)


@_command("push")
def push(  # noqa: PLR0913 - each is an option
    setup: Setup,
    out: Out,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    skip_login: Annotated[bool, _LOGIN] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing tags.")] = False,
    yes: Annotated[bool, _YES] = False,
    verbose: Annotated[bool, _VERBOSE] = False,
    retag_as_latest: Annotated[bool, _LATEST] = False,
) -> Answer:
    """Push the prepared images to the registry."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    del skip_login
    if not yes and not _agrees(
        out, f"Push the images of {image_tag} to {setup.target.registry.host}?", "nothing was pushed"
    ):
        return Answer(code=NOT_DONE)
    how = steps.Pushing(force, ("latest",) if retag_as_latest else (), verbose)
    return steps.push(setup, out, image_tag, downloads_dir, how)


@_command("clean")
def clean(
    setup: Setup,
    out: Out,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    yes: Annotated[bool, _YES] = False,
) -> Answer:
    """Remove the downloads of a build."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    del setup
    if not yes and not _agrees(out, f"Remove what {downloads_dir} has of {image_tag}?", "nothing was removed"):
        return Answer(code=NOT_DONE)
    return steps.clean(out, image_tag, downloads_dir)


@_command("daemon")
def daemon(  # noqa: PLR0913 - each is an option
    setup: Setup,
    out: Out,
    *,
    downloads_dir: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Accepted without effect: no files are written.")
    ] = Path("downloads"),
    interval: Annotated[float, typer.Option(help="Seconds between two scans.", min=1)] = 900,
    once: Annotated[bool, typer.Option("--once", help="Scan once and exit.")] = False,
    skip_login: Annotated[bool, _LOGIN] = False,
    force_push: Annotated[bool, typer.Option("--force-push", help="Replace tags that were built again.")] = False,
    retag_as_latest: Annotated[bool, _LATEST] = False,
    verbose: Annotated[bool, _VERBOSE] = False,
) -> Answer:
    """Keep the registry up to date, without files on disk."""
    from syncline.kinds.artifacts.cli import watching  # noqa: PLC0415

    del downloads_dir, skip_login, force_push, retag_as_latest, verbose
    return watching.daemon(setup, out, interval, once=once)


@_command("retag")
def retag(
    setup: Setup,
    out: Out,
    source: Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="The existing tag.", show_default=False)],
    destination: Annotated[
        str, typer.Argument(metavar="REPOSITORY:TAG", help="The tag to point at the same image.", show_default=False)
    ],
) -> Answer:
    """Point a tag at the image of another tag."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.retag(setup, out, source, destination)


def _agrees(out: Out, question: str, otherwise: str) -> bool:
    """Return True if the user confirms, otherwise print what was not done. With ``--json`` nothing is asked."""
    if out.as_json or out.agrees(question):
        return True
    out.line(otherwise)
    return False
