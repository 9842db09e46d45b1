"""GitHub's ``workflow_run`` webhook: which run ended well. It is a hint; what it says is looked up."""

from __future__ import annotations

from typing import Any

from syncline.errors import SynclineError
from syncline.kinds.artifacts.config import ArtifactsSource
from syncline.kinds.artifacts.discover import RUN


def runs_in(body: Any, source: ArtifactsSource) -> tuple[str, ...]:
    """The run that a delivery's decoded JSON speaks of, as a group of a scope, if it is one of the source's.

    Others of GitHub's events, and runs that have not ended or not well, are none. Raises MESSAGE_INVALID for what is
    no delivery of GitHub's.
    """
    if not isinstance(body, dict) or not isinstance(body.get("repository", body.get("zen")), dict | str):
        raise SynclineError("MESSAGE_INVALID", "not a webhook of GitHub's")
    run = body.get("workflow_run")
    if run is None:
        return ()
    try:
        number = run["id"]
        name = str(body["repository"]["full_name"])
        file = str(run.get("path") or body["workflow"]["path"]).partition("@")[0].rpartition("/")[2]
        ended = body["action"] == "completed" and run["conclusion"] == "success"
    except (KeyError, TypeError, AttributeError):
        raise SynclineError("MESSAGE_INVALID", "a workflow_run that says nothing of its run") from None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise SynclineError("MESSAGE_INVALID", "a workflow_run whose number is none")
    own = name.lower() == source.repository.lower() and file == source.workflow.rpartition("/")[2]
    return (f"{RUN}{number}",) if own and ended else ()
