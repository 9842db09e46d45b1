"""The table of ownership: foreign items are neither overwritten nor removed."""

from __future__ import annotations

import itertools

import pytest

from syncline.ownership import Action, decide, digest_of

CASES = [
    dict(zip(("at_source", "at_target", "ours", "current", "same", "overwrite"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=6)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_foreign_items_are_neither_replaced_nor_removed(case: dict[str, bool]) -> None:
    action = decide(**case)
    if case["at_target"] and not case["ours"]:
        assert action is not Action.REMOVE
        if not case["overwrite"]:
            assert action is not Action.REPLACE
    if not case["at_source"]:
        assert action in (Action.REMOVE, Action.NOTHING)
    if not case["at_target"]:
        assert action in (Action.CREATE, Action.NOTHING)


@pytest.mark.parametrize(
    ("flags", "action"),
    [
        ({"at_source": True, "at_target": False}, Action.CREATE),
        ({"at_source": True, "at_target": True, "ours": True, "current": True}, Action.EQUAL),
        ({"at_source": True, "at_target": True, "ours": True}, Action.REPLACE),
        ({"at_source": True, "at_target": True, "ours": True, "same": True}, Action.ADOPT),
        ({"at_source": True, "at_target": True, "same": True}, Action.ADOPT),
        ({"at_source": True, "at_target": True, "current": True}, Action.CONFLICT),
        ({"at_source": True, "at_target": True}, Action.CONFLICT),
        ({"at_source": False, "at_target": True, "ours": True}, Action.REMOVE),
        ({"at_source": False, "at_target": True}, Action.NOTHING),
        ({"at_source": False, "at_target": False, "ours": True}, Action.NOTHING),
    ],
)
def test_the_action_follows_from_the_flags(flags: dict[str, bool], action: Action) -> None:
    assert decide(**{"overwrite": False, **flags}) is action


def test_the_digest_of_a_removal_is_short_and_unique() -> None:
    requests: list[list[str]] = [[], ["ab"], ["a", "b"], ["b", "a"], ["\ud800"]]
    names = [digest_of(each) for each in requests]
    assert names == [digest_of(each) for each in requests]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {16}
