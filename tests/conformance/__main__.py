"""Try the contract against every server that is on this machine: ``python -m tests.conformance``.

Writes docs/reference/s3-services.md. A server that is absent keeps the column that another machine wrote.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from syncline.errors import SynclineError
from tests.conformance.contract import CHECKS, Client
from tests.conformance.servers import SERVICES, AbsentError

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/reference/s3-services.md"
RESULTS: Final = Path(__file__).parent / "results.json"
_TEXT: Final = """# S3 services

What was tried against which S3 server, through the client of the functions. `make conformance` writes this page. *Yes*
means that the server behaves as AWS does; other words say what it does instead. Where a target ignores conditions, it is
read before each write ([files.md](files.md#ours-and-foreign)); where it stores no checksum, bytes are compared.

The stand-in is the server of the project's own tests; it verifies no signatures. moto and ministack are emulators of AWS.

{table}

"""


def tried(client: Client) -> dict[str, str]:
    """Return the words of each check."""
    words = {}
    for name, check in CHECKS.items():
        try:
            words[name] = check(client)
        except SynclineError as error:
            words[name] = f"fails: {error.code.name}"
        print(f"  {name}: {words[name]}")
    return words


def page_of(results: dict[str, dict[str, str]]) -> str:
    """Return the page with a column for each server."""
    names = [service.name for service in SERVICES if service.name in results]
    heads = [f"{name} {results[name]['version']}".strip() for name in names]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(names)}"]
    rows += [f"| {check} | {' | '.join(results[name].get(check, '') for name in names)} |" for check in CHECKS]
    return _TEXT.format(table="\n".join(rows)).rstrip() + "\n"


def main() -> int:
    """Try every server and write the page; return 1 if no column could be written."""
    results: dict[str, dict[str, str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    written = 0
    for service in SERVICES:
        with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
            try:
                with contextmanager(service.start)(Path(folder)) as server:
                    print(f"{service.name} {server.version}")
                    results[service.name] = {"version": server.version, **tried(Client(server.url))}
                    written += 1
            except AbsentError as absent:
                print(f"{service.name}: {absent}")
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page_of(results))
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
