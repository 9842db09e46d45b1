"""Run Syncline in a separate process: ``python -m bench.backups_ours JSON`` scans, commits and verifies once.

Prints a JSON object with the seconds from a warm start (modules imported), the peak memory of the process and its
children in MiB, and the peak disk use in bytes.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.backups_data import BUCKET, ResourceMonitor
from syncline.clients.git.access import GitRemote
from syncline.clients.git.repository import Person, RepositoryLocation
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.config.sync import Removals
from syncline.kinds.backups.commit import Signature, SyncSettings
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.source import Reader
from syncline.kinds.kind import Completed, StepContext
from syncline.model import EVERYTHING, Scope
from tests.rig.backups_memory import InMemoryIndex, InMemoryOwnership
from tests.standins.rclone import ACCESS, SECRET


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    state_file = Path(arguments["memory"])
    index: InMemoryIndex
    owned = InMemoryOwnership()
    index, owned.rows, owned.facts = pickle.loads(state_file.read_bytes())
    http = Http()
    bucket = Bucket(Endpoint.parse(arguments["s3"]), BUCKET, lambda: AccessKeys(ACCESS, SECRET), http)
    layout, bot = Layout(), Person("Backup Bot", "backup@example.com")
    reader = Reader(bucket, SecretsFilter(SecretsPolicy.LEAVE_OUT), 100_000_000, 16, layout.path_of)
    reference, signature = (lambda branch: f"repository#{branch}"), Signature(bot, bot)
    settings = SyncSettings("bench", "repository", reference, layout, Removals().limits, signature)
    remote = GitRemote.parse(arguments["repository"])
    kind = Backups(settings, reader, index, owned.owned(layout), lambda: RepositoryLocation(remote), http)
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        scope = EVERYTHING if arguments["keys"] is None else Scope.of(arguments["keys"])
        context = StepContext(lambda: 600.0, work="bench")
        with ResourceMonitor(os.getpid(), Path(folder)) as monitor:
            began = time.perf_counter()
            items = [item for page in kind.discover(scope, None, context) for item in page.items]
            committed = list(kind.transfer(items, context)) if items else []
            verified = list(kind.verify([each.item for each in committed if isinstance(each, Completed)], context))
            seconds = time.perf_counter() - began
        tempfile.tempdir = None
    assert all(isinstance(each, Completed) for each in verified)
    if arguments["keep"]:
        state_file.write_bytes(pickle.dumps((index, owned.rows, owned.facts)))
    return {"seconds": seconds, "mebibytes": monitor.memory / 2**20, "disk": monitor.disk, "changed": len(verified)}


if __name__ == "__main__":
    os.environ.pop("HTTP_PROXY", None)
    print(json.dumps(main(json.loads(sys.argv[1]))))
