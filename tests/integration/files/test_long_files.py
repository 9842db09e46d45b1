"""Files that take longer than one function: continued to a bucket, refused at once to a file manager."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import pytest

from syncline.clients.s3.upload import PART_SIZE
from syncline.kinds.files import bucket_target
from syncline.model import Step
from tests.rig.files import SYNC, FilesChain
from tests.rig.pump import KillPoint
from tests.rig.stack import QUEUES
from tests.standins.s3 import S3Server

MIB: Final = 1024 * 1024
FUNCTION: Final = 120.0
"""Timeout of a transfer function in these tests, in seconds."""
SPEED: Final = 8 * MIB / 20
"""Bytes per second that the target accepts."""
LARGE: Final = random.Random(14).randbytes(MIB) * 96 + b"and the rest"
SMALL: Final = {"small": b"small", "z": b"last in the listing"}
NOTHING: Final = 1 / 3
"""Share of the bytes that may be sent twice."""


@pytest.fixture(autouse=True)
def _short_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUEUES, Step.TRANSFER, replace(QUEUES[Step.TRANSFER], function_timeout=FUNCTION))


@pytest.fixture
def target() -> Iterator[S3Server]:
    """Yield a separate server, so that no object is copied within one service."""
    with S3Server("target") as server:
        yield server


def to_slow_bucket(chain: FilesChain, server: S3Server, **more: object) -> None:
    """Sync to an empty bucket that takes time for each part, by its size, or as for 8 MiB if it is copied."""
    server.objects["target"] = {}
    server.uploads.clear()
    auth = {"access_key": "env:S3_ACCESS", "secret_key": "env:S3_SECRET"}
    chain.configure(target={"bucket": "target", "endpoint": server.url, "auth": auth, **more})

    def hook(method: str, bucket: str, _key: str, query: Mapping[str, str]) -> None:
        if method == "PUT" and bucket == "target" and "partNumber" in query:
            size = len(server.requests[-1].body) or 8 * MIB
            chain.clock.sleep(size / SPEED)

    server.hook = hook


def put_all(chain: FilesChain, server: S3Server, large: bytes) -> None:
    """Put a large object at the source, and small ones."""
    server.put(chain.name, "large", large)
    for key, content in SMALL.items():
        chain.upload(key, content)


def transfers(chain: FilesChain) -> int:
    return sum(letter.step is Step.TRANSFER for letter in chain.pump.delivered)


def check(chain: FilesChain, server: S3Server, content: bytes) -> None:
    run = chain.latest()
    assert not chain.dead(), chain.dead()
    assert (run.counts.moved, run.counts.failed) == (1 + len(SMALL), 0)
    there = {key: stored.content for key, stored in server.objects["target"].items()}
    assert there.keys() == {"large", *SMALL}
    assert there["large"] == content
    assert not server.uploads, "an unfinished upload remains"
    assert chain.state.current_run(SYNC) is None


class TestThroughTheFunction:
    def test_each_byte_is_sent_about_once(self, strict: FilesChain, strict_server: S3Server, target: S3Server) -> None:
        to_slow_bucket(strict, target)
        put_all(strict, strict_server, LARGE)
        strict.run()
        check(strict, target, LARGE)
        assert transfers(strict) >= 3
        assert target.counts["CreateMultipartUpload"] == 1
        sent = sum(len(each.body) for each in target.asked("UploadPart"))
        assert len(LARGE) <= sent <= len(LARGE) * (1 + NOTHING)
        assert strict.run().counts.queued == 0

    def test_a_killed_function_costs_no_more_than_it_had_sent(
        self, strict: FilesChain, strict_server: S3Server, target: S3Server
    ) -> None:
        to_slow_bucket(strict, target)
        put_all(strict, strict_server, LARGE)
        parts = [number for number in range(1, 60) if number % 12 == 0]
        strict.reaper.plan = {(number, KillPoint.AFTER) for number in parts}
        strict.run()
        strict.reaper.plan = set()
        check(strict, target, LARGE)
        killed = [effect for number, effect in enumerate(strict.reaper.effects, 1) if number in parts]
        killed_parts = [effect for effect in killed if "partNumber" in effect]
        assert killed_parts, killed
        assert target.counts["CreateMultipartUpload"] == 1
        sent = sum(len(each.body) for each in target.asked("UploadPart"))
        assert len(LARGE) <= sent <= len(LARGE) + len(killed_parts) * PART_SIZE

    def test_an_object_replaced_between_functions_is_sent_from_the_start(
        self, strict: FilesChain, strict_server: S3Server, target: S3Server
    ) -> None:
        """The parts of the old object are discarded, so the result is never a mixture."""
        to_slow_bucket(strict, target, requests=8)
        put_all(strict, strict_server, LARGE)
        other = LARGE[::-1]

        def replace_it(_letter: object) -> None:
            if transfers(strict) == 1 and strict_server.objects[strict.name]["large"].content != other:
                strict_server.put(strict.name, "large", other)

        strict.pump.on_delivery = replace_it
        strict.run()
        check(strict, target, other)

    def test_an_upload_that_the_target_lost_starts_again(
        self, strict: FilesChain, strict_server: S3Server, target: S3Server
    ) -> None:
        to_slow_bucket(strict, target)
        put_all(strict, strict_server, LARGE)
        forgotten: list[str] = []

        def forget(_letter: object) -> None:
            if target.uploads and not forgotten and transfers(strict) >= 1:
                forgotten.extend(target.uploads)
                target.uploads.clear()

        strict.pump.on_delivery = forget
        strict.run()
        check(strict, target, LARGE)
        assert forgotten


class TestWithinTheService:
    def test_each_part_is_copied_about_once(
        self, strict: FilesChain, strict_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """This is the method for objects over 5 GiB, with smaller limits for the test."""
        monkeypatch.setattr(bucket_target, "MAX_COPY", 16 * MIB)
        monkeypatch.setattr(bucket_target, "COPY_PART", 8 * MIB)
        monkeypatch.setattr(strict_server, "largest_copy", 16 * MIB)
        to_slow_bucket(strict, strict_server)
        put_all(strict, strict_server, LARGE)
        before = strict_server.counts.copy()
        strict.run()
        check(strict, strict_server, LARGE)
        done = strict_server.counts - before
        assert transfers(strict) >= 3
        assert done["UploadPart"] == done["GetObject"] == 0
        assert 13 <= done["UploadPartCopy"] <= 13 * (1 + NOTHING)
        assert done["CreateMultipartUpload"] == 1
        assert strict.latest().counts.bytes == 0


class Huge(bytes):
    """An object whose size in listings and HEAD is 5 TiB."""

    __slots__ = ()

    def __len__(self) -> int:
        return 5 * 1024**4


class TestToAFileManager:
    def numbers(self, reason: str | None) -> list[int]:
        return [int(each) for each in re.findall(r"\d+", (reason or "").replace(",", ""))]

    def test_a_file_that_takes_too_long_fails_at_once(self, strict: FilesChain, strict_server: S3Server) -> None:
        """No byte of it is sent or read, and the other files are moved."""
        strict.configure()
        put_all(strict, strict_server, Huge(b"never read"))
        before = strict_server.counts["GetObject"]
        strict_server.hook = lambda method, _bucket, key, _query: (
            (403, {}, b"") if (method, key) == ("GET", "large") else None
        )
        run = strict.run()
        result = strict.results(run)["large"]
        assert (run.counts.moved, run.counts.failed) == (len(SMALL), 1)
        assert result.code == "FILE_TOO_SLOW"
        assert "timeout" in (result.reason or "")
        numbers = self.numbers(result.reason)
        assert 5 * 1024**4 in numbers or "5 TiB" in (result.reason or "") or "5.0 TiB" in (result.reason or "")
        assert sum(number > FUNCTION for number in numbers) >= 2, (
            "the reason must have the estimated seconds and a sufficient timeout"
        )
        assert strict.manager.operations["create"] == len(SMALL)
        assert strict_server.counts["GetObject"] == before + len(SMALL)
        assert [dead.code for dead in strict.dead()] == ["FILE_TOO_SLOW"]

    def test_a_file_that_is_too_slow_is_not_sent_repeatedly(self, strict: FilesChain, strict_server: S3Server) -> None:
        """The file manager accepts 64 KiB a second, so 24 MiB take 384 seconds. One attempt may be needed to learn that.

        The connection ends with the function's time.
        """
        strict.configure()
        put_all(strict, strict_server, LARGE[: 24 * MIB])
        began: list[float] = []

        def receive(size: int) -> None:
            strict.clock.sleep(size / (64 * 1024))
            if strict.clock.now > began[-1] + FUNCTION:
                raise ConnectionAbortedError

        strict.pump.on_delivery = lambda _letter: began.append(strict.clock.now)
        strict.manager.on_received = receive
        run = strict.run()
        result = strict.results(run)["large"]
        assert (run.counts.moved, run.counts.failed) == (len(SMALL), 1)
        assert result.code == "FILE_TOO_SLOW"
        assert any(384 <= number <= 4000 for number in self.numbers(result.reason)), result.reason
        assert set(strict.manager.files) == {f"/data/{key}" for key in SMALL}
        # One creation for each other file, and at most one attempt for this one. Interrupted requests are not counted.
        assert transfers(strict) <= 3

    def test_a_file_that_fits_into_a_function_is_moved(self, strict: FilesChain, strict_server: S3Server) -> None:
        strict.configure()
        strict_server.put(strict.name, "large", LARGE[: 4 * MIB])
        strict.manager.on_received = lambda size: strict.clock.sleep(size / (64 * 1024))
        strict.run()
        strict.check()
