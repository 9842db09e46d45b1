"""The table of kinds: everything that is known of a kind outside its package. It imports no kind.

The package ``kinds/<name>/`` has these modules, found by their names and imported on first use:

=====================  ===================================================================================================
``config``             the model of its syncs
``wiring``             ``Builder``, unless the kind has no runs; ``changed_groups``, if its syncs take webhooks or events
``events``             ``sources_in(body)``, if ``has_events``: the sources that an event of another form than S3's names
``wiring_console``     ``metrics(sync, totals, database)``, if ``has_metrics``: metrics beside those of every sync
``wiring_doctor``      ``chains(sync, dependencies)``: the checks of its sources and targets. Without it, their addresses are checked
``cli.main``           ``app``, if it has ``commands``: they are declared there
=====================  ===================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KindInfo:
    """The description of a kind.

    ``model`` is the class of its syncs. ``source`` and ``target`` are keys of a sync's configuration; the first that is
    set names that side to people. ``part`` is what ``--only`` takes, "" if a run always covers everything.
    ``commands`` are the commands of `syncline` that only this kind has.

    A kind without runs lists instances instead, and answers requests about them. If ``groups_hidden``, groups are shares
    of the names that mean nothing to people, who call an item by its name alone.
    """

    name: str
    model: str
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    part: str = ""
    commands: tuple[str, ...] = ()
    has_runs: bool = True
    has_events: bool = False
    has_metrics: bool = False
    groups_hidden: bool = False


KINDS: Final = {
    kind.name: kind
    for kind in (
        KindInfo(
            "images",
            "ImagesSync",
            source=("source.registry",),
            target=("target.registry",),
            part="a repository",
            commands=("copy", "export", "import"),
        ),
        KindInfo(
            "files",
            "FilesSync",
            source=("source.bucket",),
            target=("target.bucket", "target.file_manager"),
            part="a key or a folder/",
            commands=("state",),
            has_events=True,
            groups_hidden=True,
        ),
        KindInfo(
            "backups",
            "BackupsSync",
            source=("source.bucket",),
            target=("target.bucket", "target.repository", "target.directory"),
            part="a cluster",
            commands=("restore",),
            has_metrics=True,
        ),
        KindInfo(
            "artifacts",
            "ArtifactsSync",
            source=("source.repository",),
            target=("target.registry",),
            part="an image tag, run:ID or target repository",
            commands=("artifacts",),
        ),
        KindInfo("tokens", "TokensSync", source=("sources",), target=("check.host",), has_runs=False),
    )
}


def kind_info(name: str) -> KindInfo:
    """Return the description of a kind; one without particulars for a kind that this version does not know."""
    return KINDS.get(name) or KindInfo(name, "")
