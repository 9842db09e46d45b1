"""Our way, in a process of its own: ``python -m bench.backups_ours JSON`` looks, commits and proves once.

Prints what it took as JSON: seconds from a warm start (modules imported), the most that it and the programs it ran
held in memory together (MiB), and the most that lay on disk (bytes).
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

from bench.backups_place import BUCKET, Watch
from syncline.clients.git.access import Remote
from syncline.clients.git.repository import Person, Place
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import Keys
from syncline.config.sync import Removals
from syncline.kinds.backups.commit import Rules, Signature
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.reading import Reader
from syncline.kinds.backups.sealing import Rule, Sealer
from syncline.kinds.kind import Completed, StepContext
from syncline.model import EVERYTHING, Scope
from tests.backups_memory import Kept, KeptLedger
from tests.standins.rclone import ACCESS, SECRET


def main(asked: dict[str, Any]) -> dict[str, Any]:
    memory_file = Path(asked["memory"])
    memory: Kept
    ledger = KeptLedger()
    memory, ledger.rows, ledger.facts = pickle.loads(memory_file.read_bytes())
    http = Http()
    bucket = Bucket(Endpoint.parse(asked["s3"]), BUCKET, lambda: Keys(ACCESS, SECRET), http)
    layout, bot = Layout(), Person("Backup Bot", "backup@example.com")
    reader = Reader(bucket, Sealer(Rule.LEAVE_OUT), 100_000_000, 16, layout.path_of)
    rules = Rules("bench", "place", lambda b: f"repository#{b}", layout, Removals().limits, Signature(bot, bot))
    remote = Remote.parse(asked["repository"])
    kind = Backups(rules, bucket, reader, memory, ledger.ledger(layout), lambda: Place(remote), http)
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        scope = EVERYTHING if asked["keys"] is None else Scope.of(asked["keys"])
        context = StepContext(lambda: 600.0, work="bench")
        with Watch(os.getpid(), Path(folder)) as watch:
            began = time.perf_counter()
            items = [item for page in kind.discover(scope, None, context) for item in page.items]
            answers = list(kind.transfer(items, context)) if items else []
            proofs = list(kind.verify([a.item for a in answers if isinstance(a, Completed)], context))
            seconds = time.perf_counter() - began
        tempfile.tempdir = None
    assert all(isinstance(proof, Completed) for proof in proofs)
    if asked["keep"]:
        memory_file.write_bytes(pickle.dumps((memory, ledger.rows, ledger.facts)))
    return {"seconds": seconds, "mebibytes": watch.memory / 2**20, "disk": watch.disk, "changed": len(proofs)}


if __name__ == "__main__":
    os.environ.pop("HTTP_PROXY", None)
    print(json.dumps(main(json.loads(sys.argv[1]))))
