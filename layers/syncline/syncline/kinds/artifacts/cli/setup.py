"""The sync and the clients of the ``artifacts`` commands; options override values of the sync."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import ValidationError

from syncline.cli.context import Context
from syncline.cli.output import Output, write
from syncline.clients.http.client import Http
from syncline.clients.http.failures import MAX_RETRY_AFTER
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.http.retry import RetryPolicy, utc_time_in
from syncline.config.file import read_syncs
from syncline.config.values import STORED
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.kinds.artifacts.builds import Build, Builds, UnreadableRun
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import ProjectTarget, TagLists
from syncline.kinds.artifacts.wiring import github_at, gitlab_at
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import StepContext
from syncline.secrets import Secrets
from syncline.wiring.registries import registry_at

if TYPE_CHECKING:
    from syncline.clients.github.client import GitHub
    from syncline.kinds.artifacts.cli.main import Options

UNLIMITED: Final = StepContext(lambda: 3600.0)  # the context of a command, which has no time limit
_GITHUB: Final = "SYNCLINE_GIVEN_GITHUB_TOKEN"
_GITLAB: Final = "SYNCLINE_GIVEN_GITLAB_TOKEN"
_USER: Final = "SYNCLINE_GIVEN_REGISTRY_USERNAME"
_PASSWORD: Final = "SYNCLINE_GIVEN_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
_DEFAULT: Final = "syncs.yaml"
_SHIPPED: Final = "examples/artifacts-presto.yaml"
_LONGEST_PAUSE: Final = MAX_RETRY_AFTER + 60
_USUAL_USER: Final = "gitlab-ci-token"  # GitLab accepts any user name with a token; a job token requires this one


@dataclass
class Setup:
    """The sync, and clients for its source and target. State lasts as long as this process.

    ``aliases`` and ``overwrite`` replace the sync's, if set. ``invalid_entries`` collects those of listings. Pauses that
    servers request are waited for in the process, up to an hour.
    """

    options: Options
    aliases: tuple[str, ...] = ()
    overwrite: bool = False
    http: Http = field(init=False)
    memory: ProcessFacts = field(default_factory=ProcessFacts)
    invalid_entries: list[InvalidEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._halted = threading.Event()
        self._reported: dict[str, float] = {}
        policy = RetryPolicy(cap=_LONGEST_PAUSE, halted=self._halted.is_set, on_pause=self._report_pause)
        self.http = Http(policy)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C in the block end the requests and pauses of all threads."""

        def interrupted(number: int, frame: FrameType | None) -> None:
            self._halted.set()
            signal.default_int_handler(number, frame)

        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as after `nohup`
            yield
            return
        signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _report_pause(self, host: str, seconds: float) -> None:
        """Write to stderr until when requests to a host pause, once for all threads."""
        now = time.time()
        if now >= self._reported.get(host, 0.0):
            self._reported[host] = now + seconds
            write(f"{escape(host)} asked to slow down; waiting until {utc_time_in(seconds)}", sys.stderr)

    @cached_property
    def has_file(self) -> bool:
        """True if the user has a file with the sync; otherwise the shipped example is used without endpoints and credentials."""
        return self.options.config is not None or Path(_DEFAULT).is_file()

    @cached_property
    def sync(self) -> ArtifactsSync:
        """The sync; raises CONFIG_INVALID, or USAGE if the file has none or several of the kind."""
        options = self.options
        file = (options.config or Path(_DEFAULT)) if self.has_file else Context(None, None, Output()).project / _SHIPPED
        values = _chosen(file, options.sync).model_dump(mode="json")
        if not self.has_file:
            values["source"]["auth"] = {"token": "env:GH_TOKEN"}
            values["target"] |= {"api": None, "auth": {"username": _USUAL_USER, "password": "env:GITLAB_TOKEN"}}
            values["aliases"] = ()
        _set_options(values, options)
        values |= {"aliases": self.aliases or values["aliases"], "overwrite": self.overwrite or values["overwrite"]}
        try:
            return ArtifactsSync.model_validate(values, context=STORED)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            where = ".".join(map(str, wrong["loc"]))
            raise SynclineError(
                "USAGE", f"an option gives `{where}` the value {wrong['input']!r}: {wrong['msg']}"
            ) from None

    @cached_property
    def secrets(self) -> Secrets:
        """Secrets from options and the environment; those on AWS are for the functions only."""
        options = self.options
        given = {
            _GITHUB: options.gh_token,
            _GITLAB: options.gitlab_token,
            _USER: options.registry_username or _USUAL_USER,
            _PASSWORD: options.registry_password or options.gitlab_token,
        }
        environ = {**os.environ, **{name: text for name, text in given.items() if text}}
        return Secrets(_refuse_aws, _refuse_aws, environ, environment="this command")

    @cached_property
    def github(self) -> GitHub:
        return github_at(self.sync.source, self.secrets, self.http)

    @cached_property
    def target(self) -> ProjectTarget:
        """The registry, and GitLab's API if configured. Raises USAGE if neither a file nor options name them."""
        sync, options = self.sync, self.options
        if not self.has_file and not (options.registry and options.gitlab_project):
            what = f"there is no {_DEFAULT} in this folder; name the registry with --registry HOST and --gitlab-project PATH, "
            raise SynclineError("USAGE", what + "or a file with a sync of artifacts with --config FILE")
        registry = registry_at(sync.target, self.secrets, self.http)
        return ProjectTarget(registry, gitlab_at(sync.target, self.secrets, self.http))

    @cached_property
    def builds(self) -> Builds:
        return Builds(self.sync, self.github, self.memory)

    @property
    def tags(self) -> TagLists:
        """The current tags of the registry."""
        return TagLists(self.target, self.invalid_entries.append)

    def youngest(self, now: float) -> list[Build | UnreadableRun]:
        """Return the latest build of each image tag, newest first, and runs with invalid metadata."""
        return list(self.builds.youngest(self.builds.runs(now, self.invalid_entries.append)))

    def build(self, tag: str, now: float) -> Build:
        """Return the latest build of an image tag. Raises NOT_FOUND."""
        known: list[str] = []
        for build in self.youngest(now):
            if isinstance(build, Build):
                if build.tag == tag:
                    return build
                known.append(build.tag)
        what = f"none of the {self.sync.source.limit} scanned runs made {tag!r}; they made {', '.join(known)[:500] or 'none'}"
        raise SynclineError("NOT_FOUND", what)


def _chosen(file: Path, name: str | None) -> ArtifactsSync:
    if not file.is_file():
        raise SynclineError(
            "USAGE", f"there is no {file}; name a file with a sync of artifacts with `--config`, such as {_SHIPPED}"
        )
    found = {sync.name: sync for sync in read_syncs(file).syncs.values() if isinstance(sync, ArtifactsSync)}
    if name is not None and name in found:
        return found[name]
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise SynclineError("USAGE", f"{file.name} has no sync of artifacts; name another file with `--config`")
    names = ", ".join(found)
    raise SynclineError("USAGE", f"{file.name} has these syncs of artifacts: {names}; name one of them with `--sync`")


def _set_options(values: dict[str, Any], options: Options) -> None:
    """Replace a sync's values by those of the options."""
    source, target = values["source"], values["target"]
    _put(source, repository=options.repo, workflow=options.workflow, branch=options.branch, limit=options.limit)
    _put(source, url=options.gh_url)
    if options.gh_token:
        source["auth"] = {"token": f"env:{_GITHUB}"}
    _put(target, project=options.gitlab_project)
    if options.registry:
        scheme, _, host = options.registry.rpartition("://")
        target |= {"registry": host, "plain_http": scheme == "http" or (not scheme and target["plain_http"])}
    if options.gitlab_host and (options.gitlab_token or target["api"]):
        url = options.gitlab_host if "://" in options.gitlab_host else f"https://{options.gitlab_host}"
        target["api"] = {"token": f"env:{_GITLAB}", **(target["api"] or {}), "url": url}
    if options.gitlab_token and target["api"]:
        target["api"] |= {"token": f"env:{_GITLAB}"}
    if options.registry_password or options.gitlab_token:
        user = None if options.registry_username else _user_of(target["auth"])
        target["auth"] = {"username": user or f"env:{_USER}", "password": f"env:{_PASSWORD}"}


def _put(values: dict[str, Any], **given: object) -> None:
    values.update({name: value for name, value in given.items() if value is not None})


def _user_of(auth: Any) -> str | None:
    """Return the user name if it is in the file or in the environment."""
    name = auth.get("username") if isinstance(auth, Mapping) else None
    return name if isinstance(name, str) and (":" not in name or name.startswith("env:")) else None


def _refuse_aws() -> NoReturn:
    what = "this command reads secrets from the environment (`env:NAME`) or its options, not from AWS"
    raise SynclineError("SECRET_MISSING", what)
