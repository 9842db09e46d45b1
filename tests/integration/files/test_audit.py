"""An audit compares every file of source and target, whatever the records say, and writes nothing to either."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kinds.files import audit, audit_bytes
from syncline.kinds.kind import Auditing, StepContext
from syncline.messages import Start
from syncline.model import EVERYTHING, Audit, Counts, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from tests.integration.files.targets import BUCKETS, MANAGER, PARTS, TARGET, Pair, etag_of_parts
from tests.rig.files import FilesChain
from tests.rig.run_ids import made_run_id
from tests.standins.rclone import ACCESS, SECRET
from tests.standins.s3 import StoredObject

pytestmark = pytest.mark.moto

EQUAL, DIFFERENT, MISSING, EXTRA = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.MISSING, Outcome.EXTRA
LEFT_OUT, UNREADABLE = Outcome.LEFT_OUT, Outcome.UNREADABLE
KEYS = ("a", "docs/one", "docs/two", "z\u00e9/\U0001f600")
only_buckets = pytest.mark.parametrize("pair", BUCKETS, indirect=True)
to_manager = pytest.mark.parametrize("pair", [MANAGER], indirect=True)


@pytest.fixture
def filled(pair: Pair) -> Pair:
    """Return a pair whose target has all files of the source."""
    pair.configure()
    for key in KEYS:
        pair.put(key, f"content of {key}".encode())
    assert pair.chain.run().counts.moved == len(KEYS)
    return pair


def found(chain: FilesChain) -> dict[str, Outcome]:
    """Return the outcomes of the latest audit by key, without that of the listing as a whole."""
    return {key: each.outcome for key, each in chain.results().items() if key != "*"}


def flip(pair: Pair, key: str) -> None:
    """Flip a bit of the target's file, which keeps its ETag."""
    stored = pair.copies[key]
    content = stored.content[:-1] + bytes([stored.content[-1] ^ 1])
    pair.copies[key] = StoredObject(content, stored.headers, stored.metadata, stored.etag, stored.modified)


@pytest.mark.parametrize("options", [{}, {"parts": True}, {"deep": True}], ids=["listing", "parts", "bytes"])
def test_an_equal_target(filled: Pair, options: dict[str, Any]) -> None:
    before, health = len(filled.writes()), filled.chain.state.health(filled.chain.sync)
    run = filled.chain.audit(**options)
    assert (run.status, run.plan) == (RunStatus.DONE, True)
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL)
    for key in KEYS:
        result = filled.chain.results()[key]
        assert result.source == result.target == filled.objects[key].etag
    assert Audit().is_equal(run.counts)
    read = sum(len(each.content) for each in filled.objects.values())
    assert run.counts.bytes == (read if options.get("deep") and not filled.to_manager else 0)
    assert len(filled.writes()) == before
    assert filled.chain.state.health(filled.chain.sync) == health
    assert filled.chain.state.audits(filled.chain.sync).equal


def plant_missing(pair: Pair) -> None:
    pair.remove("docs/one")


def plant_other(pair: Pair) -> None:
    pair.theirs("docs/one", b"something else")


def plant_shorter(pair: Pair) -> None:
    pair.theirs("docs/one", b"shorter")


def plant_older(pair: Pair) -> None:
    pair.put("docs/one", b"content of docs/0ne")


@pytest.mark.parametrize(
    ("plant", "outcome"),
    [(plant_missing, MISSING), (plant_other, DIFFERENT), (plant_shorter, DIFFERENT), (plant_older, DIFFERENT)],
)
def test_a_planted_fault(filled: Pair, plant: Callable[[Pair], None], outcome: Outcome) -> None:
    plant(filled)
    run = filled.chain.audit()
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL) | {"docs/one": outcome}
    result = filled.chain.results()["docs/one"]
    assert result.source == filled.objects["docs/one"].etag
    assert (result.target is None) == (outcome is MISSING)
    assert result.reason
    assert not Audit().is_equal(run.counts)
    assert not filled.chain.dead()


@only_buckets
def test_extra_files_by_name(filled: Pair) -> None:
    filled.theirs("0", b"before all others")
    filled.theirs("docs/extra", b"between")
    filled.theirs("\U0001f601", b"behind all others")
    run = filled.chain.audit()
    extra = {"0", "docs/extra", "\U0001f601"}
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL) | dict.fromkeys(extra, EXTRA)
    assert filled.chain.results()["0"].target == filled.copies["0"].etag
    assert run.counts.extra == 3
    assert Audit(allow_extra=True).is_equal(run.counts)


@to_manager
def test_a_file_manager_lists_nothing(filled: Pair) -> None:
    filled.theirs("docs/extra", b"extra")
    run = filled.chain.audit(deep=True)
    result = filled.chain.results()["*"]
    assert result.outcome is LEFT_OUT
    assert "extra files" in str(result.reason)
    assert run.counts.skipped == len(KEYS)


@to_manager
def test_a_file_that_states_no_origin_is_not_called_equal(filled: Pair) -> None:
    filled.theirs("docs/one", filled.objects["docs/one"].content)
    filled.chain.audit()
    result = filled.chain.results()["docs/one"]
    assert result.outcome is LEFT_OUT
    assert "cannot be compared" in str(result.reason)


@only_buckets
def test_a_flipped_bit_is_found_by_reading(filled: Pair) -> None:
    flip(filled, "docs/two")
    filled.chain.audit()
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL)
    filled.chain.audit(deep=True)
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL) | {"docs/two": DIFFERENT}
    assert str(filled.chain.results()["docs/two"].reason).count("sha256:") == 2


@only_buckets
def test_the_shares_cover_everything_once(filled: Pair) -> None:
    read = 0
    flip(filled, "docs/two")
    different = 0
    for part in range(1, 4):
        counts = filled.chain.audit(deep=True, part=part, of=3).counts
        read += counts.bytes
        different += counts.different
    assert read == sum(len(each.content) for each in filled.objects.values())
    assert different == 1


@only_buckets
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("deep", [True, False])
def test_etags_that_cannot_be_compared_do_not_decide(pair: Pair, *, same: bool, deep: bool) -> None:
    """A copy that another tool has made in other parts; both services state checksums, and only a deep audit reads."""
    pair.configure()
    etag = pair.put_parts("large", PARTS)
    pair.theirs("large", b"".join(PARTS) if same else b"".join(PARTS)[::-1])
    run = pair.chain.audit(deep=deep)
    result = pair.chain.results()["large"]
    assert result.outcome is (EQUAL if same else DIFFERENT)
    assert (result.source, result.target) == (etag, pair.copies["large"].etag)
    assert etag == etag_of_parts(PARTS) != result.target
    assert run.counts.bytes == (len(b"".join(PARTS)) if deep else 0)


@only_buckets
def test_a_file_that_cannot_be_read_does_not_hide_the_others(filled: Pair) -> None:
    def refuse(method: str, bucket: str, key: str, _query: object) -> tuple[int, dict[str, str], bytes] | None:
        return (403, {}, b"") if (method, bucket, key) == ("GET", TARGET, "docs/one") else None

    filled.target_server.hook = refuse
    filled.chain.audit(deep=True)
    assert found(filled.chain) == dict.fromkeys(KEYS, EQUAL) | {"docs/one": UNREADABLE}
    assert filled.chain.results()["docs/one"].code == "FORBIDDEN"
    assert not filled.chain.dead()


def test_a_part_of_the_keys(filled: Pair) -> None:
    filled.remove("docs/one")
    filled.chain.audit("prefix:docs/")
    assert found(filled.chain) == {"docs/one": MISSING, "docs/two": EQUAL}
    filled.chain.audit("key:a", "key:docs/one", deep=True)
    assert found(filled.chain) == {"docs/one": MISSING, "a": EQUAL}


def test_only_selected_keys(filled: Pair) -> None:
    filled.configure(select={"exclude": ["docs/*"]})
    filled.theirs("docs/extra", b"extra")
    run = filled.chain.audit()
    assert found(filled.chain) == {key: EQUAL for key in KEYS if not key.startswith("docs/")}
    assert run.counts.left_out == 2 + filled.to_manager


@only_buckets
def test_a_source_that_is_gone_is_no_empty_one(filled: Pair) -> None:
    source = {**filled.chain.endpoint(filled.chain.name), "prefix": "nothing/"}
    filled.configure(source=source)
    filled.copies.clear()
    filled.chain.audit()
    assert filled.chain.results()["*"].code == "SOURCE_ABSENT"


def in_short_functions(chain: FilesChain, options: Audit) -> tuple[dict[str, Result], int]:
    """Audit with as many functions as possible; return the results and the number of functions."""
    kind = chain.new_worker(Step.DISCOVER).engine.kind(chain.latest())
    assert isinstance(kind, Auditing)
    results: dict[str, Result] = {}
    cursor: str | None = None
    moments, functions = 1, 0
    while True:
        clock = itertools.count()
        context = StepContext(lambda end=moments, clock=clock: float(end - next(clock)))  # type: ignore[misc]
        before = cursor
        for page in kind.audit(EVERYTHING, cursor, context, options):
            assert not page.failures
            for each in page.results:
                assert each.name not in results, f"{each} twice"
                results[each.name] = each
            cursor = page.cursor
        if cursor == before and next(clock) < moments:
            return results, functions
        functions += cursor != before
        moments = max(moments - 3, 1) if cursor != before else moments + 1


@pytest.mark.parametrize("options", [{}, {"deep": True}], ids=["listing", "bytes"])
def test_many_functions_find_the_same(filled: Pair, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE_RESULTS", 1)
    monkeypatch.setattr(audit, "WINDOW", 1)
    monkeypatch.setattr(audit, "READERS", 1)
    monkeypatch.setattr(audit_bytes, "CHUNK", 4)
    filled.remove("docs/two")
    if not filled.to_manager:
        filled.theirs("zz", b"extra")
        flip(filled, "docs/one")
    filled.chain.audit(**options)
    whole = filled.chain.results()
    results, functions = in_short_functions(filled.chain, Audit(**options))
    assert results == whole
    assert functions >= (8 if options and not filled.to_manager else 3)


def repair(chain: FilesChain) -> Run:
    """Start the run that `syncline audit --repair` starts after the latest audit, and execute it."""
    asked = [(each.group, key) for key, each in chain.results().items() if each.outcome in (DIFFERENT, MISSING)]
    scope = Scope.of(f"key:{key}" for _, key in asked)
    chain.clock.sleep(1)
    run, _ = chain.state.begin_run(chain.sync, made_run_id(), Trigger.RETRY, scope, asked=asked)
    chain.queues.start(Start(chain.sync, Trigger.RETRY, scope, run=run.id))
    chain.pump.run()
    return chain.state.run(chain.sync, run.id)


def test_a_repair_sends_a_missing_file_again(filled: Pair) -> None:
    filled.remove("docs/one")
    filled.chain.audit()
    assert repair(filled.chain).counts.moved == 1
    assert Audit().is_equal(filled.chain.audit().counts)


@only_buckets
def test_a_repair_sends_a_damaged_file_again(filled: Pair) -> None:
    flip(filled, "docs/two")
    filled.chain.audit(deep=True)
    counts = repair(filled.chain).counts
    assert (counts.moved, counts.failed, counts.conflict) == (1, 0, 0)
    assert filled.copies["docs/two"].content == filled.objects["docs/two"].content
    assert Audit().is_equal(filled.chain.audit(deep=True).counts)


def test_a_repair_overwrites_no_foreign_file_and_removes_nothing(filled: Pair) -> None:
    filled.theirs("docs/one", b"foreign")
    filled.theirs("docs/extra", b"extra")
    filled.chain.audit(deep=True)
    assert repair(filled.chain).counts.conflict == 1
    assert (filled.found()["docs/one"], filled.found()["docs/extra"]) == (b"foreign", b"extra")


@only_buckets
def test_a_retry_of_an_equal_file_moves_nothing(filled: Pair) -> None:
    filled.remove("docs/one")
    filled.chain.audit()
    filled.chain.run()
    counts = repair_equal(filled.chain, "docs/two")
    assert (counts.moved, counts.skipped) == (0, 1)


def repair_equal(chain: FilesChain, key: str) -> Counts:
    group = next(each.group for name, each in chain.results().items() if name == "docs/one")
    run, _ = chain.state.begin_run(
        chain.sync, made_run_id(), Trigger.RETRY, Scope.of([f"key:{key}"]), asked=[(group, key)]
    )
    chain.queues.start(Start(chain.sync, Trigger.RETRY, Scope.of([f"key:{key}"]), run=run.id))
    chain.pump.run()
    return chain.state.run(chain.sync, run.id).counts


def test_an_audit_that_cannot_list_fails(strict: FilesChain) -> None:
    strict.configure(source=strict.endpoint("absent-bucket"))
    run = strict.audit()
    assert run.counts.unreadable == 1
    assert not Audit().is_equal(run.counts)
    with pytest.raises(SynclineError):
        strict.bucket_called("absent-bucket").page()


def test_a_copy_that_rclone_made(chain: FilesChain) -> None:
    name = f"{chain.name}-copy"
    for key in ("a", "docs/one", "docs/two"):
        chain.upload(key, f"content of {key}".encode())
    chain.make_bucket(name)
    keys = ["--s3-endpoint", chain.url, "--s3-access-key-id", ACCESS, "--s3-secret-access-key", SECRET]
    command = [
        str(Path(sys.executable).parent / "rclone"),
        "sync",
        "--config",
        os.devnull,
        "--s3-provider",
        "Rclone",
        *keys,
    ]
    subprocess.run([*command, f":s3:{chain.name}", f":s3:{name}"], check=True, timeout=60)
    chain.configure(target=chain.endpoint(name))
    assert Audit().is_equal(chain.audit(deep=True).counts)
    chain.bucket_called(name).put("docs/two", b"content of docs/tw0")
    chain.bucket_called(name).put("extra", b"extra")
    chain.audit()
    assert found(chain) == {"a": EQUAL, "docs/one": EQUAL, "docs/two": DIFFERENT, "extra": EXTRA}
