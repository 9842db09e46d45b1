"""Keys of the source that are one key at the target: each is reported, and none gets the bytes of the other."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest

from syncline.model import Outcome, Run
from tests.integration.files.targets import Pair, accounted
from tests.rig.files import record

Normalised = Callable[[str], str]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def by_case(text: str) -> str:
    return text.lower()


NAMES = [
    pytest.param(by_case, "docs/README.txt", "docs/Readme.txt", id="case"),
    pytest.param(composed, unicodedata.normalize("NFC", "docs/Übersicht.txt"), "docs/U\u0308bersicht.txt", id="forms"),
]
two_names = pytest.mark.parametrize(("normalised", "one", "other"), NAMES)


def collided(pair: Pair, run: Run) -> set[str]:
    """Return the keys that are reported as colliding."""
    results = pair.chain.results(run)
    failing = {key: each for key, each in results.items() if each.outcome in (Outcome.FAILED, Outcome.KNOWN)}
    return {key for key, each in failing.items() if each.code == "PATH_COLLIDES"}


def content(pair: Pair, normalised: Normalised, key: str) -> bytes:
    """Return the bytes at the target under a key, in any normalised form."""
    found = {normalised(name): stored for name, stored in pair.found().items()}
    return found[normalised(key)]


@two_names
@pytest.mark.parametrize("how", ["usual", "overwrite", "no conditions"])
def test_both_in_one_run(pair: Pair, normalised: Normalised, one: str, other: str, how: str) -> None:
    pair.normalise(normalised)
    pair.target_server.honours_conditions = how != "no conditions"
    pair.configure(overwrite=how == "overwrite")
    contents = {one: b"of the one", other: b"of the other", "docs/fine": b"fine"}
    for key, each in contents.items():
        pair.put(key, each)
    run = pair.chain.run()
    refused = collided(pair, run)
    assert refused
    moved = {key for key, each in pair.chain.results(run).items() if each.outcome is Outcome.MOVED}
    assert moved & refused == set()
    assert "docs/fine" in moved
    for key in moved:
        assert content(pair, normalised, key) == contents[key]
    assert accounted(run.counts) == 3

    kept = pair.found()
    assert len(kept) == 2
    again = pair.chain.run()
    assert pair.found() == kept
    assert again.counts.moved == 0
    assert collided(pair, again)


@two_names
@pytest.mark.parametrize("by_event", [False, True], ids=["full", "event"])
def test_one_after_the_other(pair: Pair, normalised: Normalised, one: str, other: str, *, by_event: bool) -> None:
    pair.normalise(normalised)
    pair.configure()
    pair.put(one, b"of the one")
    assert pair.chain.run().counts.moved == 1
    pair.put(other, b"of the other")
    run = pair.chain.run_events(record(pair.chain.name, other)) if by_event else pair.chain.run()
    assert collided(pair, run) >= {other}
    assert run.counts.moved == 0
    assert content(pair, normalised, one) == b"of the one"


@two_names
def test_removing_one_key_keeps_the_other(pair: Pair, normalised: Normalised, one: str, other: str) -> None:
    """The removal of one key must not remove the file of the other."""
    pair.normalise(normalised)
    pair.configure(removals={"share": 1.0, "count": 100})
    pair.put(one, b"of the one")
    pair.put("docs/fine", b"fine")
    pair.chain.run()
    pair.put(other, b"of the other")
    pair.chain.run()
    pair.delete(one)
    for _run in range(3):
        pair.chain.run()
    assert content(pair, normalised, other) == b"of the other"
    assert len(pair.found()) == 2
