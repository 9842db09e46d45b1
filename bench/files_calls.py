"""Count calls: ``python -m bench.files_calls RECORDS`` prints the calls of 100 events with RECORDS records in state.

The steps run in this process, so that every call is counted. The table is that of a real engine, rclone serves the
bucket, and the file manager is the stand-in. The tests' pump delivers the messages.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from syncline.cli import local_engine as engine
from syncline.cli.deployment import deployment_of
from syncline.kinds.files.records import Record
from tests.rig.files import FilesChain, record
from tests.standins.file_manager import FileManagerServer
from tests.standins.rclone import Rclone

_ROOT: Final = Path(__file__).resolve().parents[1]
_EVENTS: Final = 100
_WRITE_SIZE: Final = 1000
_WRITERS: Final = 4


def main(records: int) -> None:
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # for the rig's own queue, which sends nothing
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "engine")
        target = deployment_of(engine.up(home, _ROOT, port=0, say=_say), home)
        try:
            for service, count in sorted(_calls(Path(folder), target.table, records).items()):
                print(service, count)
        finally:
            engine.down(home, say=_say)


def _calls(folder: Path, table: Any, records: int) -> Counter[str]:
    counted = Counter[str]()
    with Rclone(folder / "root") as rclone, FileManagerServer(token="token-of-the-tests") as manager:
        chain = FilesChain(rclone, "source", manager, table=table)
        chain.make_bucket("source")
        chain.configure()
        _fill(chain, records)
        for number in range(_EVENTS):
            chain.upload(f"changed-{number:03}", b"%d" % number)
        chain.https.clear()
        chain.pump.delivery.batches = True
        lock = threading.Lock()

        def count(**_: Any) -> None:
            with lock:
                counted["dynamodb"] += 1

        table.meta.client.meta.events.register("before-call.dynamodb", count)
        chain.run_events(*(record("source", f"changed-{number:03}") for number in range(_EVENTS)))
        assert len(manager.files) == _EVENTS
        counted["api"] = sum(manager.operations.values())
        counted["s3"] = sum(http.requests_made for http in chain.https) - counted["api"]
    return counted


def _fill(chain: FilesChain, records: int) -> None:
    record = Record("0" * 32, 4096, 1_790_000_000, "id-1|4096||", mode="rw-r--r--", internal_id="id-1").to_row()

    def write(start: int) -> None:
        chain.records.write({f"file-{number:07}": record for number in range(start, min(start + _WRITE_SIZE, records))})

    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(write, range(0, records, _WRITE_SIZE)))
    chain.records.compact()  # as after a full scan


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]))
