"""Limits on the removals of backups."""

from __future__ import annotations

from collections.abc import Mapping

from syncline.kinds.backups.ownership import OwnedFile
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.removals import GoneFiles, Limiter, Renames, SourceView
from syncline.kinds.kind import StepContext
from syncline.ownership import Limits
from tests.rig.backups_memory import InMemoryOwnership

HOUR = 3600.0


def files(cluster: str, *numbers: int) -> dict[str, OwnedFile]:
    return {f"{cluster}/f{n}": OwnedFile(f"blob of {cluster} {n}", f"etag{n}", n) for n in numbers}


class Requests:
    """Requests removals, as the scans of one sync do."""

    def __init__(self, share: float = 0.25, count: int = 1000) -> None:
        self.ownership = InMemoryOwnership()
        self.limits = Limits(share, count, HOUR)
        self.clusters = ["east", "west"]
        self.total = 40

    def __call__(self, gone: Mapping[str, GoneFiles], context: StepContext | None = None) -> set[str]:
        owned = self.ownership.owned(Layout())
        limiter = Limiter("sync", self.limits, owned, context or StepContext(lambda: 60.0))
        source = SourceView(lambda: self.clusters, lambda _: True, lambda: self.total)
        return {key.partition("/")[0] for key in limiter.refused(gone, source)}


def test_each_cluster_and_the_sync_have_a_limit() -> None:
    ask = Requests()
    assert ask({"east": GoneFiles(files("east", 0, 1, 2, 3), 12), "west": GoneFiles(files("west", 0), 28)}) == {"east"}
    assert (
        ask({"east": GoneFiles(files("east", *range(3)), 12), "west": GoneFiles(files("west", *range(1, 7)), 28)})
        == set()
    )
    assert ask({"west": GoneFiles(files("west", 7), 28)}) == {"west"}, "ten of 40 were removed"


def test_refused_removals_reserve_nothing() -> None:
    ask = Requests()
    for _ in range(3):
        assert ask({"east": GoneFiles(files("east", *range(11)), 40)}) == {"east"}
    assert ask({"east": GoneFiles(files("east", *range(10)), 40)}) == set()


def test_the_same_removals_are_counted_once() -> None:
    ask = Requests()
    gone = {"east": GoneFiles(files("east", 0, 1, 2), 12)}
    assert [ask(gone) for _ in range(4)] == [set()] * 4


def test_a_file_that_reappeared_counts_again() -> None:
    ask = Requests()
    first, again = ({"east": GoneFiles({"east/f": OwnedFile("blob", "etag", 1, created)}, 12)} for created in (0, 1000))
    others = {"east": GoneFiles(files("east", 0, 1), 12)}
    assert [ask(each) for each in (others, first, first)] == [set()] * 3
    assert ask(again) == {"east"}


def test_a_removal_left_undone_by_an_earlier_run_counts_once() -> None:
    """The file still exists, so it does not also count as removed."""
    ask, removed = Requests(), dict.fromkeys(("run 1", "run 2", "run 3"), 0)
    first, second, third = (StepContext(lambda: 60.0, run=run, removed=removed.__getitem__) for run in removed)
    assert ask({"east": GoneFiles(files("east", 0), 7)}, first) == set()
    assert ask({"east": GoneFiles(files("east", 1), 7)}, second) == {"east"}, "two of seven would be removed"
    removed["run 1"] = 1
    assert ask({"east": GoneFiles(files("east", 1), 7)}, third) == set(), (
        "there is a new file: two of eight are removed"
    )


def test_a_plan_reserves_nothing() -> None:
    ask = Requests()
    plan = StepContext(lambda: 60.0, plan=True)
    for number in range(4):
        assert ask({"east": GoneFiles(files("east", *range(number, number + 3)), 12)}, plan) == set()


def test_a_vanished_cluster_stays_unless_its_removal_is_allowed() -> None:
    gone = {"east": GoneFiles(files("east", 0), 1, vanished=True)}
    assert Requests()(gone) == {"east"}
    assert Requests(share=1.0)(gone) == set()
    assert Requests()(gone, StepContext(lambda: 60.0, allow_removals=1, run="run")) == set()
    assert Requests(count=0)(gone) == {"east"}


def test_nothing_is_removed_after_an_empty_listing() -> None:
    ask = Requests(share=1.0)
    ask.clusters = []
    gone = {"east": GoneFiles(files("east", 0), 1, vanished=True)}
    assert ask(gone) == {"east"}
    assert ask(gone, StepContext(lambda: 60.0, allow_removals=1, run="run")) == {"east"}


def test_the_limit_of_a_run_covers_all_its_scans() -> None:
    ask, context = Requests(), StepContext(lambda: 60.0, allow_removals=5, run="run")
    assert ask({"east": GoneFiles(files("east", 0, 1, 2), 3)}, context) == set()
    assert ask({"west": GoneFiles(files("west", 0, 1, 2), 3)}, context) == {"west"}
    assert ask({"west": GoneFiles(files("west", 0, 1), 3)}, context) == set()


def test_a_new_file_explains_one_older_file() -> None:
    renames = Renames()
    renames.add("new/a", ["same"])
    assert renames.explain(OwnedFile("same", created=7))
    assert not renames.explain(OwnedFile("same", created=7))
    renames.add("new/b", ["other"], created=7)
    assert not renames.explain(OwnedFile("other", created=7)), "both appeared at the same time"
    assert renames.explain(OwnedFile("other", created=6))


def test_a_file_with_a_changed_mode_is_the_recorded_one() -> None:
    ours = OwnedFile("b" * 40)
    assert ours.is_at("b" * 40)
    assert ours.is_at("100755:" + "b" * 40)
    assert not ours.is_at("100755:" + "c" * 40)
    assert OwnedFile("etag:1").is_at("etag:1")


def test_many_files_of_equal_content_take_linear_time() -> None:
    class Counted(set[str]):
        lookups = 0

        def __contains__(self, key: object) -> bool:
            self.lookups += 1
            return super().__contains__(key)

    renames, used = Renames(), Counted()
    renames.used = used
    for number in range(100):
        renames.add(f"new/{number}", ("blob", ("etag", 0)))
    assert all(renames.explain(OwnedFile("blob", "etag", 0)) for _ in range(100))
    assert not renames.explain(OwnedFile("blob", "etag", 0))
    assert len(used) == 100
    assert used.lookups <= 500
