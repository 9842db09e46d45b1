"""``syncline artifacts``: sync builds at GitHub to images at GitLab manually, without an engine.

All commands take the options of source and target, so that scripts can pass the same ones to each. Each is implemented
in a separate module, imported when it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncline.cli import error_output
from syncline.cli.command import new_app
from syncline.cli.context import NOT_DONE, SOME_FAILED, CommandResult, Context
from syncline.cli.output import Output

if TYPE_CHECKING:
    from syncline.kinds.artifacts.cli.setup import Setup

_TAG: Final = typer.Argument(metavar="IMAGE_TAG", help="Image tag of the build, as in its log.", show_default=False)
_DOWNLOADS: Final = typer.Option("--downloads-dir", metavar="FOLDER", help="Folder of downloads.")
_YES: Final = typer.Option("--yes", help="Do not ask.", show_default=False)
_LOGIN: Final = typer.Option("--skip-login", help="Ignored: no login is needed.", show_default=False)
_VERBOSE: Final = typer.Option("--verbose", help="Print details of each image.", show_default=False)
_LATEST: Final = typer.Option("--retag-as-latest", help="Also point `latest` at it.", show_default=False)

app = new_app()
artifacts = typer.Typer(
    name="artifacts",
    help="Sync builds at GitHub to images at GitLab, step by step or as a daemon, without an engine.",
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(artifacts)


@artifacts.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    error_output.require_command(context)


def _shared(  # noqa: PLR0913 - each is an option
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the sync: rules for metadata, images and tags. Defaults to syncs.yaml, or to "
            "examples/artifacts-presto.yaml of the package with the endpoints given by options.",
            show_default=False,
        ),
    ] = None,
    sync: Annotated[
        str | None, typer.Option(metavar="NAME", help="Sync in the file, if it has several of artifacts.")
    ] = None,
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Repository at GitHub.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="FILE", help="File of the workflow.")] = None,
    branch: Annotated[str | None, typer.Option(help="Only runs on this branch.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of workflow runs to examine.", min=1, max=1000)] = None,
    gh_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="GITHUB_API_URL", help="URL of GitHub's API. Defaults to that of github.com."
        ),
    ] = None,
    gh_token: Annotated[
        str | None, typer.Option(envvar=["GH_TOKEN", "GITHUB_TOKEN"], help="GitHub token.", show_envvar=True)
    ] = None,
    gitlab_host: Annotated[str | None, typer.Option(metavar="HOST", help="GitLab host.")] = None,
    gitlab_project: Annotated[
        str | None,
        typer.Option(
            "--gitlab-project", "--registry-project", metavar="PATH", help="GitLab project with the registry."
        ),
    ] = None,
    gitlab_token: Annotated[str | None, typer.Option(envvar="GITLAB_TOKEN", help="GitLab token.")] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="HOST", help="Host and port of the registry; http://HOST for plain HTTP.")
    ] = None,
    registry_username: Annotated[
        str | None,
        typer.Option(envvar=["GITLAB_REGISTRY_USERNAME", "CI_REGISTRY_USER"], help="User of the registry."),
    ] = None,
    registry_password: Annotated[
        str | None,
        typer.Option(
            envvar=["GITLAB_REGISTRY_PASSWORD", "CI_REGISTRY_PASSWORD"],
            help="Password or token of that user. Defaults to the GitLab token.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> tuple[dict[str, Any], Output]:
    """Return the values of the shared options, and the output."""
    values: dict[str, Any] = dict(locals())
    return values, Output(as_json=values.pop("as_json"))


def _with_invalid_entries(answer: CommandResult, setup: Setup, out: Output) -> CommandResult:
    """Report invalid entries of listings; if there are any, the command has failed partly."""
    if not setup.odd:
        return answer
    reasons = list(dict.fromkeys(odd.error.what for odd in setup.odd))
    for reason in reasons:
        out.line(f"ENTRY_INVALID: {reason}", "red")
    return CommandResult({**answer.value, "invalid": reasons}, answer.code or SOME_FAILED)


def _command(name: str) -> Callable[[Callable[..., CommandResult]], Callable[..., CommandResult]]:
    """Return a decorator that adds a function of a setup and an output as a command, with the shared options."""

    def made(function: Callable[..., CommandResult]) -> Callable[..., CommandResult]:
        names = {"Setup": object, "Any": Any}
        _, _, *own = inspect.signature(function, eval_str=True, locals=names).parameters.values()
        shared = inspect.signature(_shared, eval_str=True).parameters

        def invoke(**given: Any) -> None:
            values, out = _shared(**{each: given.pop(each) for each in shared})
            context = Context(None, None, out)
            with error_output.exit_on_error(context, kind="artifacts"):
                from syncline.kinds.artifacts.cli.setup import Options, Setup  # noqa: PLC0415

                more = {"overwrite": given.get("force_push", False)}
                if given.get("retag_as_latest"):
                    more["aliases"] = ("latest",)
                setup = Setup(Options(**values, **more))
                with setup.interruptible():
                    answer = _with_invalid_entries(function(setup, out, **given), setup, out)
                out.json(dict(answer.value))
            raise typer.Exit(answer.code)

        invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
        artifacts.command(name, help=function.__doc__)(invoke)
        return function

    return made


@_command("gh-list")
def gh_list(setup: Setup, out: Output) -> CommandResult:
    """List the latest builds with the metadata in their logs."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.gh_list(setup, out)


@_command("gitlab-list")
def gitlab_list(setup: Setup, out: Output) -> CommandResult:
    """List the registry's repositories and tags."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.gitlab_list(setup, out)


@_command("xref")
def xref(
    setup: Setup,
    out: Output,
    *,
    list_extra: Annotated[bool, typer.Option("--list-extra", help="Also list tags that no build made.")] = False,
) -> CommandResult:
    """Show which images of builds the registry lacks."""
    from syncline.kinds.artifacts.cli import listing  # noqa: PLC0415

    return listing.xref(setup, out, list_extra=list_extra)


@_command("download")
def download(
    setup: Setup,
    out: Output,
    image_tag: Annotated[str, _TAG],
    *,
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of downloads.")] = Path("downloads"),
    force: Annotated[bool, typer.Option("--force", help="Download existing files again.")] = False,
) -> CommandResult:
    """Download a build's artifacts."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.fetch(setup, out, image_tag, output_dir, force=force)


@_command("prepare")
def prepare(
    setup: Setup,
    out: Output,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    clean: Annotated[bool, typer.Option("--clean", help="Remove an earlier plan first.")] = False,
) -> CommandResult:
    """Verify downloaded artifacts and write the upload plan."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.prepare(setup, out, image_tag, downloads_dir, clean=clean)


@_command("push")
def push(  # noqa: PLR0913 - each is an option
    setup: Setup,
    out: Output,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    skip_login: Annotated[bool, _LOGIN] = False,
    force: Annotated[bool, typer.Option("--force", help="Push existing tags again.")] = False,
    yes: Annotated[bool, _YES] = False,
    verbose: Annotated[bool, _VERBOSE] = False,
    retag_as_latest: Annotated[bool, _LATEST] = False,
) -> CommandResult:
    """Push prepared images to the registry."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    del skip_login
    if not yes and not _confirm(
        out, f"Push the images of {image_tag} to {setup.target.registry.host}?", "nothing was pushed"
    ):
        return CommandResult(code=NOT_DONE)
    how = steps.PushOptions(force, ("latest",) if retag_as_latest else (), verbose)
    return steps.push(setup, out, image_tag, downloads_dir, how)


@_command("clean")
def clean(
    setup: Setup,
    out: Output,
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    yes: Annotated[bool, _YES] = False,
) -> CommandResult:
    """Remove the downloads of a build."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    del setup
    if not yes and not _confirm(
        out, f"Remove the downloads of {image_tag} from {downloads_dir}?", "nothing was removed"
    ):
        return CommandResult(code=NOT_DONE)
    return steps.clean(out, image_tag, downloads_dir)


@_command("daemon")
def daemon(  # noqa: PLR0913 - each is an option
    setup: Setup,
    out: Output,
    *,
    downloads_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="Ignored: nothing is written to disk.")] = Path(
        "downloads"
    ),
    interval: Annotated[float, typer.Option(help="Seconds between two scans.", min=1)] = 900,
    once: Annotated[bool, typer.Option("--once", help="Scan once and exit with the result.")] = False,
    skip_login: Annotated[bool, _LOGIN] = False,
    force_push: Annotated[bool, typer.Option("--force-push", help="Replace tags of builds that ran again.")] = False,
    retag_as_latest: Annotated[bool, _LATEST] = False,
    verbose: Annotated[bool, _VERBOSE] = False,
) -> CommandResult:
    """Sync new builds to the registry continuously, without files on disk."""
    from syncline.kinds.artifacts.cli import daemon as daemon_command  # noqa: PLC0415

    del downloads_dir, skip_login, force_push, retag_as_latest, verbose
    return daemon_command.daemon(setup, out, interval, once=once)


@_command("retag")
def retag(
    setup: Setup,
    out: Output,
    source: Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="Existing tag.", show_default=False)],
    destination: Annotated[
        str, typer.Argument(metavar="REPOSITORY:TAG", help="Tag to point to the same image.", show_default=False)
    ],
) -> CommandResult:
    """Point a tag at the image of another tag, without moving layers."""
    from syncline.kinds.artifacts.cli import steps  # noqa: PLC0415

    return steps.retag(setup, out, source, destination)


def _confirm(out: Output, question: str, otherwise: str) -> bool:
    """Ask for confirmation, except with ``--json``; print ``otherwise`` if it is refused."""
    if out.as_json or out.confirm(question):
        return True
    out.line(otherwise)
    return False
