"""Samples of the engine's memory and disk use, and the search for secrets in everything that it writes."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import quote, quote_plus

from tests.soak.deployment import Deployment

EVERY: Final = 10.0
ALLOWED_SHARE: Final = 1.25
"""Allowed ratio of the medians of the last and the second quarter."""
ALLOWED_BYTES: Final = {"engine": 32 << 20, "function": 32 << 20, "disk": 16 << 20}
"""Bytes allowed in addition, by figure, not counting the rows of the table."""
_ROW: Final = {"engine": 6 << 10, "function": 0, "disk": 1 << 10}
"""Bytes of a row of the table. Rows of runs expire only after weeks, so their number grows during the test."""
_VAULT: Final = "secretsmanager"
_STATIC: Final = frozenset({"build", "layer", "sam"})
"""Folders of the engine's home that only deployments write."""
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures in bytes at a time (seconds since the start): engine, its largest function, its state, its logs.

    ``rows`` is the number of rows of all tables.
    """

    at: float
    engine: int
    function: int
    functions: int
    disk: int
    log: int
    rows: int = 0

    def beside_rows(self, name: str) -> int:
        """Return a figure without the size of the rows."""
        return int(getattr(self, name)) - self.rows * _ROW[name]


class Search:
    """Search for secrets in every encoding. It reports the name of a found secret, never its value."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._forms = [(name, form) for name, value in secrets.items() for form in forms(value)]
        self._longest = max(len(form) for _, form in self._forms)
        self.found: set[str] = set()
        self.bytes = 0

    def text(self, place: str, content: bytes) -> None:
        """Search some bytes."""
        self.bytes += len(content)
        self.found |= {f"{name} in {place}" for name, form in self._forms if form in content}

    def file(self, file: Path) -> None:
        """Search a file, piece by piece."""
        rest = b""
        with suppress(FileNotFoundError), file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                self.text(file.name, rest + piece)
                rest = piece[-self._longest :]

    def home(self, home: Path) -> int:
        """Search everything that an engine has written except its vault; return the number of records and files."""
        state = home / "state"
        count = 0
        for file in files_of(home):
            if file.parent != state:
                self.file(file)
                count += 1
        return count + self.state(home)

    def state(self, home: Path) -> int:
        """Search the table, the queues and every service except the vault; return the number of rows."""
        count = 0
        with closing(_opened(home)) as db:
            for name, value in db.execute("SELECT name, state FROM services"):
                if name != _VAULT:
                    self.text(f"state of {name}", value.encode())
                    count += 1
            for service, resource, key, value in db.execute("SELECT service, resource, key, value FROM records"):
                self.text(f"{service} {json.loads(resource)[-1]}", f"{key}\n{value}".encode())
                count += 1
        return count

    def messages(self, home: Path) -> None:
        """Search the messages that are queued now."""
        with closing(_opened(home)) as db:
            for (value,) in db.execute("SELECT value FROM records WHERE service = 'sqs'"):
                self.text("a message", value.encode())

    def commands(self, pids: Iterable[int]) -> None:
        """Search the command lines of processes and of their children."""
        for pid in pids:
            with suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                for each in (str(pid), *children):
                    with suppress(OSError):
                        self.text("a command line", Path(f"/proc/{each}/cmdline").read_bytes())


@dataclass
class Watch:
    """Takes samples of ``deployment`` in a separate thread, and searches data that will not exist later."""

    deployment: Deployment
    search: Search
    samples: list[Sample] = field(default_factory=list)

    def run(self, ended: threading.Event) -> None:
        """Take a sample every ten seconds until ``ended``."""
        began = time.monotonic()
        while True:
            with suppress(OSError, ValueError, sqlite3.Error):  # the engine is ending or starting
                self.samples.append(self.sample(time.monotonic() - began))
                self.search.messages(self.deployment.home)
                self.search.commands(self.deployment.workers())
            if ended.wait(EVERY):
                return

    def sample(self, at: float) -> Sample:
        """Return a sample. Raises OSError if the engine does not run."""
        pid = self.deployment.pid
        if pid is None:
            raise ProcessLookupError
        functions = [size for each in self.deployment.workers() if (size := resident(each))]
        home = self.deployment.home
        disk = sum(map(size_of, files_of(home, but=_STATIC)))
        log = sum(map(size_of, home.glob("*.log*")))
        with closing(_opened(home)) as state:
            (rows,) = state.execute("SELECT COUNT(*) FROM records WHERE service = 'dynamodb'").fetchone()
        return Sample(at, resident(pid), max(functions, default=0), len(functions), disk - log, log, rows)


def resident(pid: int) -> int:
    """Return the resident bytes of a process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def size_of(file: Path) -> int:
    """Return the size of a file, 0 if it is gone."""
    try:
        return file.lstat().st_size
    except OSError:
        return 0


def files_of(folder: Path, but: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the files below a folder, except those in the direct subfolders ``but``."""
    for root, folders, names in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [each for each in folders if each not in but]
        yield from (Path(root) / name for name in names)


@dataclass(frozen=True, slots=True)
class Growth:
    """The medians of the second and of the last quarter of a figure, without the rows of the table."""

    name: str
    second: float
    last: float

    @property
    def flat(self) -> bool:
        """Return True if the last is within the bound."""
        return self.last <= self.second * ALLOWED_SHARE + ALLOWED_BYTES[self.name]


def growth(samples: list[Sample], seconds: float) -> list[Growth]:
    """Return the growth over ``seconds`` of each figure that must stay flat."""
    quarters = [
        [each for each in samples if low * seconds <= each.at <= high * seconds]
        for low, high in ((0.25, 0.5), (0.75, 1))
    ]
    return [
        Growth(name, *(median([e.beside_rows(name) for e in q] or [0]) for q in quarters)) for name in ALLOWED_BYTES
    ]


def _opened(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{home / 'state' / 'engine.db'}?mode=ro", uri=True, timeout=30)


def forms(secret: str) -> set[bytes]:
    """Return the secret as plain text, in URLs, JSON and hexadecimal, and as part of any Base64 text."""
    plain = {secret, quote(secret), quote_plus(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]}
    plain.add(secret.encode().hex())
    for before in range(3):  # bytes before it in its first group of three
        data = bytes(before) + secret.encode()
        whole = base64.b64encode(data[: len(data) // 3 * 3]).decode()[4 * (before > 0) :]
        plain |= {whole, whole.replace("+", "-").replace("/", "_")}
    return {each.encode() for each in plain}
