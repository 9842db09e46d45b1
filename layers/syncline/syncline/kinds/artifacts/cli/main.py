"""``syncline artifacts``: sync builds at GitHub to images at GitLab manually, without an engine.

All commands take the options of source and target, so that scripts can pass the same ones to each. They are declared here
and implemented in modules that are imported when a command runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncline.cli import error_output
from syncline.cli.command import new_app, with_examples
from syncline.cli.context import SOME_FAILED, CommandResult, Context
from syncline.cli.output import Output

if TYPE_CHECKING:
    from syncline.kinds.artifacts.cli.setup import Setup

_TAG: Final = typer.Argument(metavar="IMAGE_TAG", help="Image tag of the build, as in its log.", show_default=False)
_DOWNLOADS: Final = typer.Option("--downloads-dir", metavar="FOLDER", help="Folder of downloads.")
_YES: Final = typer.Option("--yes", help="Do not ask for confirmation.", show_default=False)
_LOGIN: Final = typer.Option("--skip-login", help="Ignored: no login is needed.", show_default=False)
_VERBOSE: Final = typer.Option("--verbose", help="Print details of each image.", show_default=False)
_LATEST: Final = typer.Option(
    "--retag-as-latest", help="Also point the tag `latest` at each image.", show_default=False
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options that all commands share, from the command line and the environment; None if not given."""

    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the sync: rules for metadata, images and tags. Defaults to syncs.yaml, or to "
            "examples/artifacts-presto.yaml of the package with the endpoints given by options.",
            show_default=False,
        ),
    ] = None
    sync: Annotated[
        str | None, typer.Option(metavar="NAME", help="Sync in the file, if it has several of artifacts.")
    ] = None
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Repository at GitHub.")] = None
    workflow: Annotated[str | None, typer.Option(metavar="FILE", help="File of the workflow.")] = None
    branch: Annotated[str | None, typer.Option(help="Only runs on this branch.")] = None
    limit: Annotated[int | None, typer.Option(help="Number of workflow runs to scan.", min=1, max=1000)] = None
    gh_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="GITHUB_API_URL", help="URL of GitHub's API. Defaults to that of github.com."
        ),
    ] = None
    gh_token: Annotated[
        str | None, typer.Option(envvar=["GH_TOKEN", "GITHUB_TOKEN"], help="GitHub token.", show_envvar=True)
    ] = None
    gitlab_host: Annotated[str | None, typer.Option(metavar="HOST", help="GitLab host.")] = None
    gitlab_project: Annotated[
        str | None,
        typer.Option(
            "--gitlab-project", "--registry-project", metavar="PATH", help="GitLab project with the registry."
        ),
    ] = None
    gitlab_token: Annotated[str | None, typer.Option(envvar="GITLAB_TOKEN", help="GitLab token.")] = None
    registry: Annotated[
        str | None, typer.Option(metavar="HOST", help="Host and port of the registry; http://HOST for plain HTTP.")
    ] = None
    registry_username: Annotated[
        str | None, typer.Option(envvar=["GITLAB_REGISTRY_USERNAME", "CI_REGISTRY_USER"], help="User of the registry.")
    ] = None
    registry_password: Annotated[
        str | None,
        typer.Option(
            envvar=["GITLAB_REGISTRY_PASSWORD", "CI_REGISTRY_PASSWORD"],
            help="Password or token of that user. Defaults to the GitLab token.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False


def _with_invalid_entries(answer: CommandResult, setup: Setup, out: Output) -> CommandResult:
    """Report invalid entries of listings; if there are any, the command has failed partly."""
    if not setup.invalid_entries:
        return answer
    reasons = list(dict.fromkeys(entry.error.what for entry in setup.invalid_entries))
    for reason in reasons:
        out.line(f"ENTRY_INVALID: {reason}", "red")
    return CommandResult({**answer.value, "invalid": reasons}, answer.code or SOME_FAILED)


def _command(module: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a command with the shared options, given its signature and help.

    ``examples`` begin with the name of the command. The function of the same name in ``module`` implements it. It takes a setup, an output and the command's arguments.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters.values()
        shared = inspect.signature(Options, eval_str=True).parameters

        def invoke(**given: Any) -> None:
            options = Options(**{name: given.pop(name) for name in shared})
            out = Output(as_json=options.as_json)
            with error_output.exit_on_error(Context(None, None, out), kind="artifacts"):
                from syncline.kinds.artifacts.cli.setup import Setup  # noqa: PLC0415

                aliases = ("latest",) if given.get("retag_as_latest") else ()
                setup = Setup(options, aliases, overwrite=given.get("force_push", False))
                implementation = getattr(import_module(f"{__package__}.{module}"), function.__name__)
                with setup.interruptible():
                    answer = _with_invalid_entries(implementation(setup, out, **given), setup, out)
                out.json(dict(answer.value))
            raise typer.Exit(answer.code)

        invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
        invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
        epilog = with_examples([f"artifacts {each}" for each in examples])
        artifacts.command(function.__name__.replace("_", "-"), help=function.__doc__, epilog=epilog)(invoke)
        return function

    return add


@_command("listing", "gh-list --limit 20")
def gh_list() -> None:
    """List the latest builds with the metadata in their logs."""


@_command("listing", "gitlab-list")
def gitlab_list() -> None:
    """List the registry's repositories and tags."""


@_command("listing", "xref", "xref --list-extra")
def xref(
    *,
    list_extra: Annotated[
        bool, typer.Option("--list-extra", help="Also list tags that no scanned build made.")
    ] = False,
) -> None:
    """Show which images of builds the registry lacks."""


@_command("steps", "download presto-92865fbce0d2-linux-amd64")
def download(
    image_tag: Annotated[str, _TAG],
    *,
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of downloads.")] = Path("downloads"),
    force: Annotated[bool, typer.Option("--force", help="Download existing files again.")] = False,
) -> None:
    """Download a build's artifacts."""


@_command("steps", "prepare presto-92865fbce0d2-linux-amd64")
def prepare(
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    clean: Annotated[bool, typer.Option("--clean", help="Remove an earlier plan first.")] = False,
) -> None:
    """Verify downloaded artifacts and write the upload plan."""


@_command("steps", "push presto-92865fbce0d2-linux-amd64 --yes")
def push(  # noqa: PLR0913 - each is an option
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    skip_login: Annotated[bool, _LOGIN] = False,
    force: Annotated[bool, typer.Option("--force", help="Push existing tags again.")] = False,
    yes: Annotated[bool, _YES] = False,
    verbose: Annotated[bool, _VERBOSE] = False,
    retag_as_latest: Annotated[bool, _LATEST] = False,
) -> None:
    """Push prepared images to the registry."""


@_command("steps", "clean presto-92865fbce0d2-linux-amd64 --yes")
def clean(
    image_tag: Annotated[str, _TAG],
    *,
    downloads_dir: Annotated[Path, _DOWNLOADS] = Path("downloads"),
    yes: Annotated[bool, _YES] = False,
) -> None:
    """Remove the downloads of a build."""


@_command("daemon", "daemon --interval 300", "daemon --once --retag-as-latest")
def daemon(  # noqa: PLR0913 - each is an option
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
) -> None:
    """Sync new builds to the registry continuously, without files on disk."""


@_command("steps", "retag x86/presto:0.291 x86/presto:latest")
def retag(
    source: Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="Existing tag.", show_default=False)],
    destination: Annotated[
        str, typer.Argument(metavar="REPOSITORY:TAG", help="Tag to point to the same image.", show_default=False)
    ],
) -> None:
    """Point a tag at the image of another tag, without moving layers."""
