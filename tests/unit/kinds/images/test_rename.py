"""Rules rename repositories in one direction and back, never to a wrong repository, and are refused if names meet."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncline.config.circles import circles_between
from syncline.config.file import ConfigInvalid, parse_syncs
from syncline.config.findings import Area
from syncline.config.sync import load_sync
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.config_select import RenameRule, rename, renamed_areas
from syncline.kinds.images.repositories import RenamedRepositories, misnamed
from syncline.kinds.images.wiring import changed_groups
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Scope
from tests.unit.kinds.images.world import RegistryPair, found

TEAMS: Final = {"from": "team-(.*)/(.*)", "to": r"dr/\1/\2"}

parts = st.sampled_from(["a", "b", "team-a", "team-b", "dr", "x1", "team"])
names = st.lists(parts, min_size=1, max_size=3).map("/".join)
rules = st.sampled_from(
    [
        ("team-(.*)/(.*)", r"dr/\1/\2"),
        ("(.*)/(.*)", r"\2/\1"),
        ("team-.*", "one"),
        ("(a|b)/(.+)", r"\2-\1"),
        ("(.*)", r"x/\1"),
        ("dr/([^/]*)(/.*)?", r"\1\2"),
        ("a.*", r"\0/again"),
    ]
).map(lambda pair: RenameRule.model_validate({"from": pair[0], "to": pair[1]}))


def sync(**more: Any) -> ImagesSync:
    ends = {"source": {"registry": "prod.example", "catalog": True}, "target": {"registry": "dr.example"}}
    loaded = load_sync(json.dumps({"name": "s", "kind": "images", **ends, **more}))
    assert isinstance(loaded, ImagesSync)
    return loaded


def refusal(**more: Any) -> str:
    ends = {"source": {"registry": "prod.example", "catalog": True}, "target": {"registry": "dr.example"}}
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(json.dumps({"syncs": {"s": {"kind": "images", **ends, **more}}}).encode())
    (problem,) = raised.value.problems
    return f"{problem.path}: {problem.message}"


def listed(*repositories: str) -> dict[str, Any]:
    return {"registry": "prod.example", "repositories": repositories}


def test_the_first_rule_that_matches_the_complete_name_counts() -> None:
    renamed = sync(rename=[TEAMS, {"from": "team-.*", "to": r"other/\0"}], target={"registry": "d", "prefix": "m"})
    names = ("team-a/app", "team-a", "a/team-a/app")
    assert [renamed.target_repository(name) for name in names] == ["m/dr/a/app", "m/other/team-a", "m/a/team-a/app"]


@given(st.lists(rules, max_size=3), names)
def test_areas_and_possible_names_contain_every_new_name(some: list[RenameRule], name: str) -> None:
    new = rename(tuple(some), name)
    for area in (Area(name, exact=True), Area(name[: len(name) // 2]), Area("")):
        assert any(each.within(Area(new, exact=True)) for each in renamed_areas(tuple(some), area))
    for rule in some:
        changed = rule.renamed(name)
        assert changed is None or rule.may_give(changed)


@given(rules, names)
def test_a_name_is_possible_only_if_it_fits_the_text_of_the_rule(rule: RenameRule, name: str) -> None:
    expression = ".*".join(map(re.escape, re.split(r"\\[0-9]", rule.to)))
    assert rule.may_give(name) == (re.fullmatch(expression, name) is not None)


@given(st.lists(rules, max_size=3), st.sets(names, min_size=1, max_size=6))
def test_names_are_found_back_or_refused(some: list[RenameRule], repositories: set[str]) -> None:
    texts = [rule.model_dump() for rule in some]
    explicit = sync(rename=texts, source=listed(*sorted(repositories)))
    targets = [explicit.target_repository(name) for name in repositories]
    if len(set(targets)) < len(targets):
        assert any("the same name" in problem.message for problem in explicit.problems())
        return
    for name in repositories:
        assert explicit.source_repository(explicit.target_repository(name)) == name


@given(st.lists(rules, min_size=1, max_size=3), st.sets(names, min_size=1, max_size=6))
def test_of_listed_repositories_each_usable_one_has_a_valid_name_of_its_own(
    some: list[RenameRule], repositories: set[str]
) -> None:
    catalog = sync(rename=[rule.model_dump() for rule in some])
    assume(all(catalog.takes_repository(name) for name in repositories))
    renamed = RenamedRepositories(catalog, repositories)
    usable = renamed.usable(EVERYTHING)
    groups = [catalog.target_repository(name) for name in usable]
    others = {catalog.target_repository(name) for name in repositories - set(usable)}
    assert len(set(groups)) == len(groups)
    assert others.isdisjoint(groups)
    failed = {failure.item.name for failure in renamed.failures(EVERYTHING, named=True)}
    assert failed == repositories - set(usable)
    for name, group in zip(usable, groups, strict=True):
        assert renamed.usable(Scope.of([group])) == [name]


def test_a_rule_survives_the_table() -> None:
    before = sync(rename=[TEAMS])
    assert load_sync(before.model_dump_json()) == before


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ({"from": "(a+)+", "to": "x"}, "rename[0].from: has a repetition inside a repetition"),
        ({"from": ".*-.*-.*-x", "to": "x"}, "rename[0].from: can match a name in too many ways"),
        ({"from": "(a)\\1", "to": "x"}, "rename[0].from: refers back"),
        ({"from": "(", "to": "x"}, "rename[0].from: is not a regular expression"),
        ({"from": "a" * 201, "to": "x"}, "rename[0].from: is longer than 200"),
        ({"from": "", "to": "x"}, "rename[0].from: is empty"),
        ({"from": "a", "to": ""}, "rename[0]: to has 0 characters"),
        ({"from": "(a)", "to": "\\2"}, "rename[0]: to has \\2, but from has 1 groups"),
        ({"from": "a", "to": "Dr"}, "rename[0]: to has the character 'D'"),
        ({"from": "a", "to": "x:1"}, "rename[0]: to has the character ':'"),
        ({"from": "a"}, "rename[0].to"),
        ({"from": "a", "to": "b", "then": "c"}, "rename[0].then"),
    ],
)
def test_an_invalid_rule_is_refused(rule: dict[str, str], part: str) -> None:
    assert part in refusal(rename=[rule])


def test_listed_repositories_with_one_name_are_refused() -> None:
    message = refusal(source=listed("team-a/x", "team-b/x", "z"), rename=[{"from": "team-.*/(.*)", "to": r"dr/\1"}])
    assert "syncs.s.rename: gives team-a/x and team-b/x the same name dr/x" in message
    left_out = {"repositories": {"exclude": ["team-b/x"]}}
    allowed = sync(
        source=listed("team-a/x", "team-b/x"), rename=[{"from": "team-.*/(.*)", "to": r"dr/\1"}], select=left_out
    )
    assert allowed.problems() == []


def test_a_listed_repository_with_an_invalid_name_is_refused() -> None:
    message = refusal(source=listed("team-a/x"), rename=[{"from": "team-(.*)/x", "to": r"dr//\1"}])
    assert "gives team-a/x the name 'dr//a', which has an empty path part" in message


def test_two_syncs_that_may_write_one_renamed_repository_are_refused() -> None:
    def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
        first = sync(source=listed("team-a/app"), rename=[TEAMS], **one)
        (mine,), (theirs,) = first.reaches(), sync(**other).reaches()
        return mine.common_with(theirs) is not None

    assert overlap({}, {"source": listed("dr/a/app")})
    assert not overlap({}, {"source": listed("team-a/app")})
    assert overlap(
        {}, {"select": {"repositories": {"include": ["other/*"]}}, "rename": [{"from": "o(.*)/(.*)", "to": r"dr/\2"}]}
    )
    assert not overlap(
        {}, {"select": {"repositories": {"include": ["other/*"]}}, "rename": [{"from": "o(.*)/(.*)", "to": r"xy/\2"}]}
    )


def test_a_circle_through_a_renamed_repository_is_found() -> None:
    there = sync(source=listed("team-a/app"), rename=[TEAMS])
    ends = {"source": {"registry": "dr.example", "repositories": ["dr/a/app"]}, "target": {"registry": "prod.example"}}
    back = load_sync(
        json.dumps({"name": "t", "kind": "images", **ends, "rename": [{"from": "dr/(.*)/(.*)", "to": r"team-\1/\2"}]})
    )
    elsewhere = load_sync(json.dumps({"name": "t", "kind": "images", **ends}))
    assert list(circles_between([*there.flows(), *back.flows()]))
    assert not list(circles_between([*there.flows(), *elsewhere.flows()]))


def test_a_sync_within_one_registry_may_not_find_its_copies_again() -> None:
    here = {"registry": "prod.example"}
    assert "leaves copies in the source" in refusal(target=here, rename=[TEAMS])
    assert "leaves copies in the source" in refusal(source=listed("team-a/x", "z"), target=here, rename=[TEAMS])
    assert sync(source=listed("team-a/x"), target=here, rename=[TEAMS]).problems() == []


def test_a_push_of_a_renamed_repository_scans_only_it() -> None:
    content = {"team-a/app": {"1": "d1"}, "team-b/app": {"1": "d2"}, "z": {"1": "d3"}}
    pair = RegistryPair(content, {}, rename=[TEAMS])
    (page,) = pair.scan(Scope.of(["dr/b/app"]))
    assert found([page]) == [("dr/b/app", "1")]
    assert page.items[0].detail["from"] == "team-b/app"
    assert [each for each in pair.source.asked if each.startswith("tags")] == ["tags team-b/app"]


def test_a_person_learns_that_a_named_group_is_no_target() -> None:
    pair = RegistryPair({"team-a/app": {"1": "d1"}}, {}, rename=[TEAMS])
    pages = list(pair.pages(Scope.of(["team-a/app"]), None, StepContext(lambda: 60.0, named=True)))
    assert [failure.error.code.name for page in pages for failure in page.failures] == ["SOURCE_ABSENT"]


def test_only_one_name_of_two_is_a_failure_of_both() -> None:
    errors = misnamed({"a": "x", "b": "x", "c": "y", "d": "//"})
    assert {name: error.code.name for name, error in errors.items()} == {
        "a": "RENAME_REFUSED",
        "b": "RENAME_REFUSED",
        "d": "RENAME_REFUSED",
    }


def test_a_notification_names_the_group_of_a_renamed_repository() -> None:
    renamed = sync(rename=[TEAMS], target={"registry": "dr.example", "prefix": "m"})
    event = {"repository": "team-a/app", "updated_tags": ["1"]}
    assert changed_groups(renamed, event, 0.0) == ("m/dr/a/app",)
    assert renamed.groups_of(["team-a/app"]) == ("m/dr/a/app",)
