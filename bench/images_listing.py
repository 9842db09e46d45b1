"""Memory of a scan of one repository with up to 1,000,000 tags, none of which the target has.

``python -m bench.images_listing SOURCE TARGET`` scans in a separate process and prints its peak resident set in MiB and
the number of tags found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final
from urllib.parse import parse_qs, urlsplit

from bench.measure import Row
from bench.memory import peak
from bench.workspace import Workspace
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.config.sync import load_sync
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply

FEW: Final = 100_000
MANY: Final = 1_000_000
_TAGS: Final = "/v2/team/app/tags/list"


def listing(_workspace: Workspace) -> list[Row]:
    """Measure the memory of a scan of 1,000,000 tags, against 100,000 tags."""
    note = "peak resident set of the scan's process, including Python; the peer is our scan of 100,000 tags"
    return [Row("images.listing.memory", "MiB", [_scan(MANY)], [_scan(FEW)], 1.1, note)]


def _scan(tags: int) -> float:
    def page(request: Request) -> Reply:
        start = int(parse_qs(urlsplit(request.target).query).get("last", ["0"])[0])
        names = [f"v1.{number}" for number in range(start, min(start + 100, tags))]
        source.requests.clear()
        if start + 100 >= tags:
            return json_reply({"tags": names})
        return json_reply({"tags": names}, Link=f'<{_TAGS}?n=100&last={start + 100}>; rel="next"')

    with ScriptedServer() as source, ScriptedServer() as target:
        source.on("GET", _TAGS, page)
        target.on("GET", _TAGS, errors_reply(404, "NAME_UNKNOWN"))
        command = [sys.executable, "-m", "bench.images_listing", source.url, target.url]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(printed[1]) == tags, f"the scan found {printed[1]} of {tags} tags"
    return float(printed[0])


def main(source: str, target: str) -> None:
    endpoints = {
        "source": {"registry": source.removeprefix("http://"), "plain_http": True, "repositories": ["team/app"]},
        "target": {"registry": target.removeprefix("http://"), "plain_http": True},
    }
    sync = load_sync(json.dumps({"name": "s", "kind": "images", **endpoints}))
    assert isinstance(sync, ImagesSync)
    clients = [RegistryClients(Registry(Endpoint.parse(url), lambda: None, Http()), None) for url in (source, target)]
    scan = ImageScan(sync, clients[0], clients[1], TargetNotes(ProcessFacts(), "dr.example"))
    with peak(lambda: [os.getpid()]) as memory:
        tags = sum(len(page.items) for page in scan.pages(EVERYTHING, None, StepContext(lambda: 60.0)))
    print(memory.mebibytes, tags)


if __name__ == "__main__":
    main(*sys.argv[1:])
