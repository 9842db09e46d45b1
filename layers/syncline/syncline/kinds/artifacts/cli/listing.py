"""``gh-list``, ``gitlab-list`` and ``xref``: list builds, list the registry, and show their differences."""

from __future__ import annotations

import time
from typing import Any

from syncline.cli.context import SOME_FAILED, CommandResult
from syncline.cli.output import Output
from syncline.kinds.artifacts.builds import Build, Destination, UnreadableRun
from syncline.kinds.artifacts.cli.setup import Setup
from syncline.kinds.artifacts.discover import TagLists
from syncline.text import size


def gh_list(setup: Setup, out: Output) -> CommandResult:
    """List the examined runs with their metadata."""
    shown: list[dict[str, Any]] = []
    for run in setup.builds.runs(time.time(), setup.invalid_entries.append):
        build = setup.builds.build(run)
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.created))
        out.line(f"run {run.id}  {when}  {run.branch}  {run.event}  {run.url}", "bold")
        about: dict[str, Any] = {"run": run.id, "created": run.created, "branch": run.branch, "event": run.event}
        if isinstance(build, UnreadableRun):
            out.line(f"  {build.error}", "yellow")
            shown.append({**about, "code": build.error.code.name, "reason": build.error.what})
            continue
        out.table([(f"{key}:", value) for key, value in build.block.items()], indent=2)
        images = [destination.image for destination in build.destinations]
        out.line(f"  images: {', '.join(images)}")
        shown.append({**about, "metadata": dict(build.block), "images": images})
    return CommandResult({"runs": shown})


def gitlab_list(setup: Setup, out: Output) -> CommandResult:
    """List the registry's repositories and tags, with sizes and ages if GitLab reports them."""
    tags, api = setup.tags, setup.target.api
    shown: list[dict[str, Any]] = []
    for repository in _repositories(setup, tags):
        out.line(repository, "bold")
        found = []
        for tag in sorted(tags.of(repository)):
            details = None if api is None else api.tag(tags.repositories[repository], tag)
            row: dict[str, Any] = {"tag": tag}
            if details is not None:
                row |= {"digest": details.digest or "", "size": details.size, "created": details.created or ""}
            found.append(row)
        out.table([_cells(row) for row in found], indent=2)
        shown.append({"repository": repository, "tags": found})
    return CommandResult({"repositories": shown})


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    known = row.get("size")
    return (row["tag"], size(known) if known is not None else "", row.get("created", ""), row.get("digest", "")[:19])


def xref(setup: Setup, out: Output, *, list_extra: bool) -> CommandResult:
    """Show images of builds that the registry lacks; with ``list_extra`` also tags that no examined build made."""
    tags = setup.tags
    _repositories(setup, tags)  # first, as the registry may reject the credentials and GitHub's logs take long
    builds = setup.youngest(time.time())
    good = [build for build in builds if isinstance(build, Build)]
    missing = [
        (build, destination)
        for build in good
        for destination in build.destinations
        if destination.tag not in tags.of(destination.repository)
    ]
    out.line(f"missing at {setup.target.registry.host}: {len(missing)}", "bold")
    out.table(
        [(str(destination), f"from {build.tag}", f"run {build.run.id}") for build, destination in missing], indent=2
    )
    value: dict[str, Any] = {"missing": [_missing(build, destination) for build, destination in missing]}
    if list_extra:
        extra = _extra(setup, tags, good)
        out.line(f"tags of no scanned build: {len(extra)}", "bold")
        out.table([(name,) for name in extra], indent=2)
        value["extra"] = extra
    unreadable = [build for build in builds if isinstance(build, UnreadableRun)]
    for each in unreadable:
        out.line(f"run {each.run.id}: {each.error}", "yellow")
    value["flawed"] = [{"run": f.run.id, "code": f.error.code.name, "reason": f.error.what} for f in unreadable]
    return CommandResult(value, SOME_FAILED if unreadable else 0)


def _missing(build: Build, destination: Destination) -> dict[str, Any]:
    return {"image_tag": build.tag, "run": build.run.id, "image": destination.image, "target": str(destination)}


def _extra(setup: Setup, tags: TagLists, builds: list[Build]) -> list[str]:
    """Return tags that the mapping allows but no build made, without aliases."""
    made = {str(destination) for build in builds for destination in build.destinations}
    sync = setup.sync
    left_out = {*sync.aliases, "latest"}
    return [
        f"{repository}:{tag}"
        for repository in _repositories(setup, tags)
        for tag in sorted(tags.of(repository) - left_out)
        if f"{repository}:{tag}" not in made
        and sync.build.origin(repository.removeprefix(f"{sync.target.project}/"), tag) is not None
    ]


def _repositories(setup: Setup, tags: TagLists) -> list[str]:
    """Return the repositories of the project; without GitLab's API those that the mapping can produce."""
    if setup.target.api is not None:
        return sorted(tags.repositories)
    build, project = setup.sync.build, setup.sync.target.project
    return sorted({f"{project}/{below}" for below in build.repositories() if tags.of(f"{project}/{below}")})
