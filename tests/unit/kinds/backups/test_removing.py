"""Limits on the removals of backups."""

from __future__ import annotations

from collections.abc import Mapping

from syncline.kinds.backups.ours import Ours
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.removals import Gone, Limiter, Renames, Source
from syncline.kinds.kind import StepContext
from syncline.ownership import Limits
from tests.backups_memory import KeptLedger

HOUR = 3600.0


def files(cluster: str, *numbers: int) -> dict[str, Ours]:
    return {f"{cluster}/f{n}": Ours(f"blob of {cluster} {n}", f"etag{n}", n) for n in numbers}


class Asking:
    """Asks about removals, as scans of one sync do."""

    def __init__(self, share: float = 0.25, count: int = 1000) -> None:
        self.kept = KeptLedger()
        self.limits = Limits(share, count, HOUR)
        self.there = ["east", "west"]
        self.total = 40

    def __call__(self, gone: Mapping[str, Gone], context: StepContext | None = None) -> set[str]:
        ledger = self.kept.ledger(Layout())
        limiter = Limiter("sync", self.limits, ledger, context or StepContext(lambda: 60.0))
        source = Source(lambda: self.there, lambda _: True, lambda: self.total)
        return {key.partition("/")[0] for key in limiter.refused(gone, source)}


def test_a_cluster_has_a_limit_of_its_own_and_so_have_all() -> None:
    ask = Asking()
    assert ask({"east": Gone(files("east", 0, 1, 2, 3), 12), "west": Gone(files("west", 0), 28)}) == {"east"}
    assert ask({"east": Gone(files("east", *range(3)), 12), "west": Gone(files("west", *range(1, 7)), 28)}) == set()
    assert ask({"west": Gone(files("west", 7), 28)}) == {"west"}, "ten of 40 were removed"


def test_what_is_refused_reserves_nothing() -> None:
    ask = Asking()
    for _ in range(3):
        assert ask({"east": Gone(files("east", *range(11)), 40)}) == {"east"}
    assert ask({"east": Gone(files("east", *range(10)), 40)}) == set()


def test_the_same_removals_are_counted_once() -> None:
    ask = Asking()
    gone = {"east": Gone(files("east", 0, 1, 2), 12)}
    assert [ask(gone) for _ in range(4)] == [set()] * 4


def test_a_file_that_came_again_counts_again() -> None:
    ask = Asking()
    first, again = ({"east": Gone({"east/f": Ours("blob", "etag", 1, created)}, 12)} for created in (0, 1000))
    others = {"east": Gone(files("east", 0, 1), 12)}
    assert [ask(each) for each in (others, first, first)] == [set()] * 3
    assert ask(again) == {"east"}


def test_a_removal_that_an_earlier_run_left_undone_counts_once_among_the_files() -> None:
    """The file is there still, so it is not one that was removed as well."""
    ask, removed = Asking(), dict.fromkeys(("run 1", "run 2", "run 3"), 0)
    first, second, third = (StepContext(lambda: 60.0, run=run, removed=removed.__getitem__) for run in removed)
    assert ask({"east": Gone(files("east", 0), 7)}, first) == set()
    assert ask({"east": Gone(files("east", 1), 7)}, second) == {"east"}, "two of seven would be removed"
    removed["run 1"] = 1
    assert ask({"east": Gone(files("east", 1), 7)}, third) == set(), "a file came since: two of eight are removed"


def test_a_plan_reserves_nothing() -> None:
    ask = Asking()
    plan = StepContext(lambda: 60.0, plan=True)
    for number in range(4):
        assert ask({"east": Gone(files("east", *range(number, number + 3)), 12)}, plan) == set()


def test_a_vanished_cluster_stays_unless_its_removal_is_allowed() -> None:
    gone = {"east": Gone(files("east", 0), 1, vanished=True)}
    assert Asking()(gone) == {"east"}
    assert Asking(share=1.0)(gone) == set()
    assert Asking()(gone, StepContext(lambda: 60.0, allow_removals=1, run="run")) == set()
    assert Asking(count=0)(gone) == {"east"}


def test_nothing_is_removed_after_an_empty_listing() -> None:
    ask = Asking(share=1.0)
    ask.there = []
    gone = {"east": Gone(files("east", 0), 1, vanished=True)}
    assert ask(gone) == {"east"}
    assert ask(gone, StepContext(lambda: 60.0, allow_removals=1, run="run")) == {"east"}


def test_a_run_has_its_own_limit_over_all_its_scans() -> None:
    ask, context = Asking(), StepContext(lambda: 60.0, allow_removals=5, run="run")
    assert ask({"east": Gone(files("east", 0, 1, 2), 3)}, context) == set()
    assert ask({"west": Gone(files("west", 0, 1, 2), 3)}, context) == {"west"}
    assert ask({"west": Gone(files("west", 0, 1), 3)}, context) == set()


def test_a_new_file_explains_one_older_file() -> None:
    renames = Renames()
    renames.add("new/a", ["same"])
    assert renames.explain(Ours("same", created=7))
    assert not renames.explain(Ours("same", created=7))
    renames.add("new/b", ["other"], created=7)
    assert not renames.explain(Ours("other", created=7)), "both came at the same time"
    assert renames.explain(Ours("other", created=6))


def test_a_file_whose_mode_somebody_changed_is_the_one_recorded() -> None:
    ours = Ours("b" * 40)
    assert ours.is_at("b" * 40)
    assert ours.is_at("100755:" + "b" * 40)
    assert not ours.is_at("100755:" + "c" * 40)
    assert Ours("etag:1").is_at("etag:1")


def test_many_files_of_equal_content_cost_a_look_each() -> None:
    class Counted(set[str]):
        looks = 0

        def __contains__(self, key: object) -> bool:
            self.looks += 1
            return super().__contains__(key)

    renames, used = Renames(), Counted()
    renames.used = used
    for number in range(100):
        renames.add(f"new/{number}", ("blob", ("etag", 0)))
    assert all(renames.explain(Ours("blob", "etag", 0)) for _ in range(100))
    assert not renames.explain(Ours("blob", "etag", 0))
    assert len(used) == 100
    assert used.looks <= 500
