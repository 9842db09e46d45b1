"""Races with another writer at a target that honours conditional writes: none of its objects is lost.

A seed decides what the source and the target have, and before which requests of the functions the other writer puts or
deletes an object. After each request, every object of the other writer must be there as it was written.
`make races` runs a thousand seeds; `RACES="FIRST LAST"` chooses them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest
from moto import mock_aws

from syncline.kinds.files import bucket_target
from syncline.model import Outcome, Run
from tests.integration.files.targets import COPIED, SENT, TARGET, Pair, etag_of_parts
from tests.rig.files import FilesWorld
from tests.standins.s3 import S3Server, StoredObject

FIRST, LAST = map(int, os.environ.get("RACES", "0 60").split())
TOGETHER: Final = 20
"""Seeds that share a chain and its buckets."""
PART: Final = 64
"""Bytes of a part: longer objects are sent in parts."""
LATEST: Final = 14
"""Requests to the target, before one of which the other writer acts."""
KEYS: Final = ("a", "b")


@dataclass
class OtherWriter:
    """Acts before numbered requests to the target. ``foreign`` has its objects, which nobody else may change.

    ``same`` has objects that were equal to the source when they were put, and may be adopted.
    """

    pair: Pair
    rng: random.Random
    folder: str
    seed: int
    foreign: dict[str, StoredObject] = field(default_factory=dict)
    same: dict[str, StoredObject] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plan = {self.rng.randrange(LATEST) for _ in range(self.rng.randint(1, 4))}
        self._count = -1

    def before(self, _method: str, bucket: str, _key: str, _query: Mapping[str, str]) -> None:
        if bucket == TARGET:
            self._count += 1
            if self._count in self._plan:
                self.act()

    def after(self, method: str, bucket: str, key: str, query: Mapping[str, str]) -> bool:
        if bucket == TARGET:
            self.check(f"after {method} {key} {dict(query)}")
        return False

    def act(self) -> None:
        """Put a foreign object, put one with the bytes of the source, or delete."""
        key = self.folder + self.rng.choice(KEYS)
        what = self.rng.choice(["put", "put", "put", "same", "delete"])
        self.actions.append(f"{what} {key} before request {self._count}")
        self.foreign.pop(key, None)
        if what == "delete":
            self.pair.copies.pop(key, None)
        elif what == "put" or key not in self.pair.objects:
            size = self.rng.choice([0, 10, 3 * PART])
            content = f"foreign {self.seed} {len(self.actions)} ".encode() + bytes(size)
            self.foreign[key] = self.pair.target_server.put(TARGET, key, content)
        else:  # equal to the source, so it may become ours
            here = self.pair.objects[key]
            self.same[key] = self.pair.target_server.put(TARGET, key, here.content, dict(here.headers))
            self.same[key].etag = here.etag

    def check(self, when: str) -> None:
        self.lost += [
            f"{key} {when}" for key, stored in self.foreign.items() if self.pair.copies.get(key) is not stored
        ]


def content(rng: random.Random, version: int) -> tuple[bytes, str | None]:
    """Return the bytes of a version at the source, and its ETag if it was uploaded in parts."""
    parts = [f"version {version} ".encode() + rng.randbytes(rng.choice([1, PART - 20, 3 * PART]))]
    if rng.random() < 0.3:
        parts.append(b"second part")
    return b"".join(parts), etag_of_parts(parts) if len(parts) > 1 else None


def put(pair: Pair, key: str, rng: random.Random, version: int) -> None:
    data, etag = content(rng, version)
    pair.put(key, data)
    pair.objects[key].etag = etag or pair.objects[key].etag


def race(pair: Pair, seed: int) -> None:
    """Run one race and its repair."""
    rng = random.Random(seed)
    folder = f"race-{seed}/"
    for key in KEYS:
        if rng.random() < 0.6:
            put(pair, folder + key, rng, 1)
    if rng.random() < 0.7:
        pair.chain.run()  # the files are ours
    other = OtherWriter(pair, rng, folder, seed)
    if rng.random() < 0.3:
        other.act()
    for key in KEYS:
        change = rng.choice(["", "put", "put", "delete", "rename"])
        name, moved = folder + key, f"{folder}{key}-renamed"
        if change == "put":
            put(pair, name, rng, 2)
        elif change == "delete":
            pair.objects.pop(name, None)
        elif change == "rename" and name in pair.objects:
            pair.objects[moved] = pair.objects.pop(name)
    server = pair.target_server
    server.hook, server.lose = other.before, other.after
    story = f"RACES='{seed} {seed + 1}' ({pair.sort}): "
    try:
        pair.chain.run()
        pair.chain.run()
    finally:
        server.hook, server.lose = (lambda *_: None), (lambda *_: False)
    assert not other.lost, f"{story}{other.lost} of {other.actions}"
    run = pair.chain.run()
    other.check("in the last run")
    assert not other.lost, f"{story}{other.lost} of {other.actions}"
    check_rest(pair, run, other, story)


def check_rest(pair: Pair, run: Run, other: OtherWriter, story: str) -> None:
    """Check that every file without a foreign object equals the source, and that the others are conflicts."""
    results = pair.chain.results(run)
    for key in [key for key in pair.objects if key.startswith(other.folder)]:
        # One that was never adopted is foreign once the source has another version.
        there = pair.copies.get(key)
        same = there is not None and there.content == pair.objects[key].content
        unknown = there is not None and there is other.same.get(key) and not same
        if key in other.foreign or unknown:
            assert results[key].outcome is Outcome.CONFLICT, f"{story}{key} {results[key]} of {other.actions}"
        else:
            assert same, f"{story}{key} differs from the source after {other.actions}"


@contextmanager
def new_pair(seed: int, sort: str) -> Iterator[Pair]:
    with S3Server() as here, S3Server(TARGET) as other, FilesWorld(here).chain(seed) as chain:
        there = here if sort == COPIED else other
        here.objects.setdefault(TARGET, {})
        here.clock = other.clock = chain.clock.time
        for server in (here, other):
            server.smallest_part = 1
        pair = Pair(chain, sort, here, there)
        pair.configure(removals={"share": 1.0, "count": 1_000_000})
        yield pair


@pytest.mark.parametrize("first", range(FIRST, LAST, TOGETHER))
def test_no_object_of_another_writer_is_lost(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_target, "PART_SIZE", PART)
    monkeypatch.setattr(bucket_target, "COPY_PART", PART)
    monkeypatch.setattr(bucket_target, "MAX_COPY", 2 * PART)
    sort = (SENT, COPIED)[first // TOGETHER % 2]
    with mock_aws(), new_pair(first, sort) as pair:
        for seed in range(first, min(first + TOGETHER, LAST)):
            race(pair, seed)
            for objects in (pair.objects, pair.copies):
                objects.clear()
            pair.chain.run()
            pair.chain.clock.sleep(2 * 86_400)  # a new window for removals
