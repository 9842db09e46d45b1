"""GitHub's ``workflow_run`` webhook, which names a run that succeeded. It is a hint: the scan reads the run itself."""

from __future__ import annotations

from typing import Any

from syncline.errors import SynclineError
from syncline.kinds.artifacts.config import ArtifactsSource
from syncline.kinds.artifacts.discover import RUN


def runs_in(body: Any, source: ArtifactsSource) -> tuple[str, ...]:
    """Return the run that a delivery's decoded JSON names, as a group of a scope, if it belongs to the source.

    Other events of GitHub, and runs that have not ended or not succeeded, give nothing. Raises MESSAGE_INVALID for a
    body that GitHub does not send.
    """
    if not isinstance(body, dict) or not isinstance(body.get("repository", body.get("zen")), dict | str):
        raise SynclineError("MESSAGE_INVALID", "not a webhook delivery of GitHub")
    run = body.get("workflow_run")
    if run is None:
        return ()
    try:
        number = run["id"]
        name = str(body["repository"]["full_name"])
        file = str(run.get("path") or body["workflow"]["path"]).partition("@")[0].rpartition("/")[2]
        succeeded = body["action"] == "completed" and run["conclusion"] == "success"
    except (KeyError, TypeError, AttributeError):
        raise SynclineError("MESSAGE_INVALID", "the workflow_run lacks the run's id, path or repository") from None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise SynclineError("MESSAGE_INVALID", "the workflow_run has an invalid run id")
    own = name.lower() == source.repository.lower() and file == source.workflow.rpartition("/")[2]
    return (f"{RUN}{number}",) if own and succeeded else ()
