"""The kind between a bucket and a repository; git checks the result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from syncline.clients.git.access import TokenCredentials
from syncline.clients.git.objects import blob_id
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.backups import discover as looking
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import EVERYTHING, Item, Outcome, Result
from tests.rig.backups import Caps, World, make_bucket
from tests.rig.backups_memory import InMemoryIndex
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import make_bare

TOKEN = "a-token-of-the-tests"
FILES = {f"{c}/n{n}/f{f}.yaml": f"{c} {n} {f}\n".encode() for c in ("east", "west") for n in range(3) for f in range(4)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttp]:
    with git_http(tmp_path / "srv", {"x-access-token": TOKEN}) as server:
        yield server


@pytest.fixture
def world(s3: str, server: GitHttp, tmp_path: Path) -> World:
    http = Http()
    bare = make_bare(tmp_path / "srv" / "r.git")
    bucket = make_bucket(s3, tmp_path.name.replace("_", "-")[:50].lower() + "-b", http)
    return World(bucket, bare, server.url + "/r.git", TokenCredentials(TOKEN), http)


def test_the_branch_follows_the_bucket(world: World) -> None:
    world.put(FILES)
    assert set(world.codes(world.run()).values()) == {"moved"}
    assert world.bare.files() == FILES
    assert world.skipped() == len(FILES)
    message = world.bare.git("log", "-1", "--format=%B", "main")
    assert "Clusters processed: 2\n- east: 12 files\n- west: 12 files\n\nTotal files: 24\n" in message
    assert "Changes: 24 new, 0 modified, 0 deleted" in message

    world.put({"east/n0/new.yaml": b"new", "west/n1/f1.yaml": b"changed", "north/n0/f0.yaml": b"first"})
    world.delete("west/n2/f2.yaml")
    results = world.codes(world.run())
    moved = dict.fromkeys(["east/n0/new.yaml", "west/n1/f1.yaml", "north/n0/f0.yaml"], "moved")
    assert results == moved | {"west/n2/f2.yaml": "removed"}
    message = world.bare.git("log", "-1", "--format=%B", "main")
    assert "- east: 13 files\n- north: 1 files\n- west: 11 files\n\nTotal files: 25\n" in message
    assert "Changes: 2 new, 1 modified, 1 deleted" in message
    assert len(world.bare.commits()) == 2, "several changes must be one commit"
    assert world.bare.git("log", "-1", "--format=%an|%ce", "main").strip() == "Backup Bot|backup@example.com"
    world.bare.check()


def test_a_scan_without_differences_reads_no_object_and_commits_nothing(world: World, server: GitHttp) -> None:
    world.put(FILES)
    world.run()
    requests, commits = world.http.requests_made, world.bare.commits()
    server.requests.clear()
    assert world.run() == {}
    assert world.http.requests_made - requests <= 3, "more than a listing of clusters and one of each cluster"
    assert len(server.requests) <= 3
    assert world.bare.commits() == commits


def test_a_scan_after_a_lost_table_reads_but_commits_nothing(world: World) -> None:
    world.put(FILES)
    world.run()
    commits = world.bare.commits()
    again = world.but(index=InMemoryIndex())
    assert set(again.codes(again.run()).values()) == {"skipped"}
    assert world.bare.commits() == commits, "an empty commit was made"
    assert again.skipped() == len(FILES)


def test_an_event_costs_only_its_objects(world: World) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n0/f0.yaml": b"changed"})
    world.delete("east/n1/f1.yaml")
    requests = world.http.requests_made
    hinted = ("east/n0/f0.yaml", "east/n1/f1.yaml", "east/n2/f2.yaml", "east/n0/never-was.yaml", "loose", "east/n0/")
    results = world.codes(world.run(*(h for h in hinted if not h.endswith("/"))))
    assert results == {
        "east/n0/f0.yaml": "moved",
        "east/n1/f1.yaml": "removed",
        "east/n2/f2.yaml": "skipped",
        "east/n0/never-was.yaml": "skipped",
    }
    assert world.http.requests_made - requests <= 4 + 4 + 2, (
        "more than four reads, two checks of each absent object, and the listings for the limits"
    )
    assert "1 modified, 1 deleted" in world.bare.git("log", "-1", "--format=%B", "main")
    assert world.skipped() == len(FILES) - 1


def test_a_change_costs_only_the_folders_that_it_touches(world: World, server: GitHttp) -> None:
    """Only the changes of a folder are sent to the server."""
    long_names = {f"c00/n0/{n:03}-{os.urandom(40).hex()}": b"%d" % n for n in range(500)}
    beside = {f"c{c:02}/n{n}/{os.urandom(40).hex()}": b"%d" % n for c in range(1, 40) for n in range(20)}
    world.bare.fill(long_names | beside)
    world.put({"c00/n1/new.yaml": b"new", "c00/n0/other.yaml": b"other"})
    world.run("c00/n1/new.yaml")  # counts the files of each cluster
    for key, from_git, requests in (("c00/n1/new.yaml", 5_000, 3 + 2 + 2), ("c00/n0/other.yaml", 50_000, 3 + 2 + 2)):
        world.put({key: b"changed"})
        server.requests.clear()
        server.sent = server.received = 0
        assert world.codes(world.run(key)) == {key: "moved"}
        assert server.sent < 2 * from_git, "more than one fetch for the commit and one for the verification"
        assert server.received < 5_000
        assert len(server.requests) == 2 * requests + 2
    world.bare.check()


def test_a_prefix_limits_the_scan(world: World) -> None:
    world.put(FILES)
    assert set(world.run("east/")) == {key for key in FILES if key.startswith("east/")}
    assert set(world.run()) == {key for key in FILES if key.startswith("west/")}


# -- invalid input -----------------------------------------------------------------------------------------------------

BAD = {
    "east/n/../x": "PATH_REFUSED",
    "east/.git/config": "PATH_REFUSED",
    "east/.GIT/config": "PATH_REFUSED",
    "east/n/git~1": "PATH_REFUSED",
    "east/n/dots.": "PATH_REFUSED",
    "east/" + "d/" * 300 + "x": "PATH_REFUSED",
    "east/n/a/b": "PATH_COLLIDES",
    "east/n/README": "moved",
    "east/n/readme": "PATH_COLLIDES",
    "east/n/e\u0301": "moved",
    "east/n/\u00e9": "PATH_COLLIDES",
    "loose": "PATH_REFUSED",
    "EAST/n/x": "moved",
}


@pytest.mark.parametrize("hinted", [False, True], ids=["look", "events"])
def test_invalid_keys_are_refused_separately_and_the_rest_is_committed(world: World, hinted: bool) -> None:
    expected = BAD | {"east/n/a": "moved"}
    world.put(dict.fromkeys(expected, b"x"))
    results = world.codes(world.run(*expected)) if hinted else world.codes(world.run())
    if hinted:
        del expected["loose"]
    # Of two clusters with the same name on some systems, the first is kept with all its objects.
    clash = {key: "PATH_COLLIDES" for key in expected if key.startswith("east/") and expected[key] == "moved"}
    got = {key: value for key, value in results.items() if value != "PATH_COLLIDES"}
    assert got.keys() <= {key for key, value in expected.items() if value != "PATH_COLLIDES"}
    assert results.keys() == expected.keys()
    assert results["EAST/n/x"] == "moved"
    assert {results[key] for key in clash} == {"PATH_COLLIDES"}
    world.bare.check()
    assert world.bare.files() == {"EAST/n/x": b"x"}


def test_invalid_keys_within_a_cluster(world: World) -> None:
    expected = {key: value for key, value in BAD.items() if key.startswith("east/")} | {"east/n/a": "moved"}
    world.put(dict.fromkeys(expected, b"x"))
    assert world.codes(world.run()) == expected
    assert set(world.bare.files()) == {key for key, value in expected.items() if value == "moved"}
    world.bare.check()


def test_of_colliding_keys_the_committed_one_is_kept(world: World) -> None:
    world.put({"east/n/readme": b"first"})
    world.run()
    world.put({"east/n/README": b"second", "east/n/readme/x": b"third"})
    assert set(world.codes(world.run()).values()) == {"PATH_COLLIDES"}
    assert world.bare.files() == {"east/n/readme": b"first"}


def test_objects_over_the_limit_and_large_ones_within(world: World) -> None:
    small = world.but(largest=3_000_000)
    large = os.urandom(2_900_000)
    small.put(
        {"east/n/large.bin": large, "east/n/larger.bin": os.urandom(3_000_001), "east/n/x": b"x", "east/n/0": b""}
    )
    codes = {"east/n/large.bin": "moved", "east/n/larger.bin": "OVER_LIMIT", "east/n/x": "moved", "east/n/0": "moved"}
    assert small.codes(small.run()) == codes
    assert small.bare.files() == {"east/n/large.bin": large, "east/n/x": b"x", "east/n/0": b""}
    small.bare.check()


# -- removals ----------------------------------------------------------------------------------------------------------


def test_a_deleted_cluster_is_kept(world: World) -> None:
    world.put(FILES)
    world.run()
    world.delete(*(key for key in FILES if key.startswith("west/")))
    world.put({"east/n0/new.yaml": b"new"})
    results = world.codes(world.run())
    assert results.pop("east/n0/new.yaml") == "moved"
    assert set(results.values()) == {"REMOVALS_CAPPED"}
    assert set(world.bare.files()) == {*FILES, "east/n0/new.yaml"}
    allowed = world.but(caps=Caps(share=1.0))
    assert set(allowed.codes(allowed.run()).values()) == {"removed"}
    assert not [path for path in world.bare.files() if path.startswith("west/")]


def test_removals_by_many_events_are_capped(world: World) -> None:
    world.put(FILES)
    world.run()
    gone = [key for key in FILES if key.startswith("west/")][:7]
    world.delete(*gone)
    assert set(world.codes(world.run(*gone)).values()) == {"REMOVALS_CAPPED"}
    assert set(world.codes(world.run(*gone[:3])).values()) == {"removed"}
    assert len(world.bare.files()) == len(FILES) - 3


def test_removals_of_many_clusters_are_capped_together(world: World) -> None:
    world.put(FILES)
    world.run()
    gone = [key for key in FILES if "/n0/" in key][:8]
    world.delete(*gone)
    few = world.but(caps=Caps(count=7))
    assert set(few.codes(few.run(*gone)).values()) == {"REMOVALS_CAPPED"}, "removals by events were not capped"
    assert set(few.codes(few.run()).values()) == {"REMOVALS_CAPPED"}, "removals by a full scan were not capped"
    assert world.bare.files() == FILES
    assert set(world.codes(world.run(*gone)).values()) == {"removed"}


@pytest.mark.parametrize("by_events", [True, False], ids=["events", "full scan"])
def test_a_run_may_allow_more_removals(world: World, *, by_events: bool) -> None:
    world.put(FILES)
    world.run()
    gone = [key for key in FILES if key.startswith("west/")]
    world.delete(*gone)
    scope = gone if by_events else ()
    few = world.but(allow_removals=len(gone) - 1)
    assert set(few.codes(few.run(*scope)).values()) == {"REMOVALS_CAPPED"}
    assert world.bare.files() == FILES
    run = world.but(allow_removals=len(gone), caps=Caps(count=0))
    assert run.codes(run.run(*scope)) == dict.fromkeys(gone, "removed")
    assert world.bare.files() == {key: data for key, data in FILES.items() if key not in gone}


@pytest.mark.parametrize("caps", [Caps(), Caps(count=0)], ids=["allowed", "capped"])
def test_planned_removals_outlive_a_function(world: World, caps: Caps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next function continues after the last page that was sent before the function of the scan was killed."""
    world.put(FILES | {"north/n0/f0.yaml": b"x", "north/n0/f1.yaml": b"x"})
    world.run()
    gone = {"east/n0/f0.yaml", "east/n0/f1.yaml", "north/n0/f0.yaml"}
    world.put({f"{c}/n9/f{n}": b"new" for c in ("middle", "west") for n in range(3)})
    world.delete(*gone)
    monkeypatch.setattr(looking, "SHARE", 2)
    here = world.but(caps=caps)
    undisturbed = here.scan()
    assert len(undisturbed) >= 4
    for sent in range(1, len(undisturbed)):
        again = here.kind().discover(EVERYTHING, undisturbed[sent - 1].cursor, StepContext(lambda: 100.0))
        pages = [*undisturbed[:sent], *again]
        assert {item.name for page in pages for item in page.items if item.detail} == (
            set() if caps.count == 0 else gone
        )
        capped = [result.name for page in pages for result in page.results]
        assert sorted(capped) == (sorted(gone) if caps.count == 0 else [])


def test_an_empty_bucket_is_treated_as_an_error(world: World) -> None:
    world.put(FILES)
    world.run()
    world.delete(*FILES)
    with pytest.raises(SynclineError) as caught:
        world.but(caps=Caps(share=1.0)).scan()
    assert caught.value.code.name == "LISTING_INCOMPLETE"


def test_files_outside_the_sync_are_not_changed(world: World) -> None:
    world.bare.fill({"README.md": b"hello", "docs/x.md": b"x", "b/other/n/x": b"other", "b/east/n/x.log": b"a log"})
    here = world.but(layout=Layout(folder="b", clusters=(("east", "west"), ()), objects=((), ("**/*.log",))))
    here.put(FILES | {"north/n0/x": b"not taken"})
    here.run()
    kept = {"README.md": b"hello", "docs/x.md": b"x", "b/other/n/x": b"other", "b/east/n/x.log": b"a log"}
    assert here.bare.files() == kept | {f"b/{key}": data for key, data in FILES.items()}
    assert here.run() == {}


def test_a_branch_for_each_cluster(world: World) -> None:
    each = world.but(layout=Layout(branch="backups/{cluster}"))
    each.put(FILES)
    each.run()
    for cluster in ("east", "west"):
        expected = {key: data for key, data in FILES.items() if key.startswith(cluster)}
        assert each.bare.files(f"backups/{cluster}") == expected
    each.put({"west/n0/f0.yaml": b"changed"})
    each.run()
    assert (len(each.bare.commits("backups/east")), len(each.bare.commits("backups/west"))) == (1, 2)
    assert each.skipped() == len(FILES)


def test_a_scan_makes_one_commit_on_each_branch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    each = world.but(layout=Layout(branch="backups/{cluster}"))
    each.put(FILES)
    each.run()
    each.put({f"{cluster}/n0/new{n}.yaml": b"new" for cluster in ("east", "west") for n in range(2)})
    each.delete("east/n0/f0.yaml", "west/n0/f0.yaml")
    each.run()
    assert [len(each.bare.commits(f"backups/{cluster}")) for cluster in ("east", "west")] == [2, 2]

    # Items that do not fit in one message are divided by branch.
    monkeypatch.setattr(looking, "SHARE", 5)
    each.put({f"{cluster}/n0/more{n}.yaml": b"more" for cluster in ("east", "north", "west") for n in range(3)})
    shares = each.shares(each.scan())
    assert [(share[0].group, len(share)) for share in shares] == [
        ("backups/east", 3),
        ("backups/north", 3),
        ("backups/west", 3),
    ]
    each.run()
    assert [len(each.bare.commits(f"backups/{cluster}")) for cluster in ("east", "north", "west")] == [3, 1, 3]


def test_the_branch_of_a_deleted_cluster_is_kept(world: World) -> None:
    each = world.but(layout=Layout(branch="backups/{cluster}"))
    each.put(FILES)
    world.bare.fill({"north/n/x": b"of somebody else"}, "other/north")
    world.bare.fill({"README.md": b"no cluster is in it"}, "backups/about")
    each.run()
    west = {key: data for key, data in FILES.items() if key.startswith("west/")}
    each.delete(*west)
    assert each.codes(each.run()) == dict.fromkeys(west, "REMOVALS_CAPPED")
    assert each.bare.files("backups/west") == west

    allowed = each.but(caps=Caps(share=1.0))
    assert allowed.codes(allowed.run()) == dict.fromkeys(west, "removed")
    assert each.bare.files("backups/west") == {}
    assert len(each.bare.commits("backups/west")) == 2, "its former content must stay in its history"
    assert each.skipped() == len(FILES) - len(west), "the deleted cluster still causes work"
    world.bare.check()

    each.delete(*FILES)
    with pytest.raises(SynclineError) as caught:
        allowed.scan()
    assert caught.value.code.name == "LISTING_INCOMPLETE"


# -- other writers, and interruptions ----------------------------------------------------------------------------------


def test_a_concurrent_foreign_push_is_kept(world: World, server: GitHttp) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n0/f0.yaml": b"mine"})
    others = iter(range(10))
    server.before_push = [lambda: world.bare.fill({f"theirs/n/x{next(others)}": b"theirs"})] * 6
    assert world.codes(world.run("east/n0/f0.yaml")) == {"east/n0/f0.yaml": "moved"}
    files = world.bare.files()
    assert files["east/n0/f0.yaml"] == b"mine"
    assert sum(path.startswith("theirs/") for path in files) >= 1, "the foreign files are lost"
    world.bare.check()


def test_a_foreign_commit_of_the_same_change_leaves_nothing_to_commit(world: World, server: GitHttp) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n0/f0.yaml": b"mine"})
    server.before_push = [lambda: world.bare.fill({"east/n0/f0.yaml": b"mine"}, message="theirs")]
    world.run("east/n0/f0.yaml")
    assert world.bare.commits()[0] == "theirs", "an empty commit was made"


def test_a_foreign_change_of_our_file_is_a_conflict(world: World) -> None:
    world.put(FILES)
    world.run()
    theirs = {"east/n0/f0.yaml": b"tampered", "east/n0/planted.yaml": b"planted"}
    world.bare.fill(theirs)
    assert world.codes(world.run()) == {"east/n0/f0.yaml": "FILE_DIFFERS", "east/n0/planted.yaml": "extra"}
    assert world.bare.files() == FILES | theirs


def test_a_foreign_change_of_our_file_during_the_commit_is_a_conflict(world: World, server: GitHttp) -> None:
    world.put(FILES)
    world.run()
    world.put({"east/n0/f0.yaml": b"mine", "east/n0/f1.yaml": b"mine"})
    server.before_push = [lambda: world.bare.fill({"east/n0/f0.yaml": b"theirs"})]
    codes = world.codes(world.run("east/n0/f0.yaml", "east/n0/f1.yaml"))
    assert codes == {"east/n0/f0.yaml": "FILE_DIFFERS", "east/n0/f1.yaml": "moved"}
    assert world.bare.files() == FILES | {"east/n0/f0.yaml": b"theirs", "east/n0/f1.yaml": b"mine"}


def test_endless_foreign_pushes_are_reported(world: World, server: GitHttp) -> None:
    world.put(FILES)
    others = iter(range(100))
    server.before_push = [lambda: world.bare.fill({f"theirs/n/x{next(others)}": b"theirs"})] * 40
    items = [Item("main", key) for key in FILES]
    with pytest.raises(SynclineError) as caught:
        world.commit(items)
    assert caught.value.code.name == "BRANCH_MOVED"
    assert caught.value.retried


def test_a_function_killed_after_its_push_does_not_commit_twice(world: World) -> None:
    world.put(FILES)
    items = [Item("main", key) for key in FILES]
    first = world.commit(items, batch="the-batch")
    again = world.commit(items, batch="the-batch")
    assert len(world.bare.commits()) == 1
    for answers in (first, again):
        assert {answer.item.source for answer in answers if isinstance(answer, Completed)} == set(
            map(blob_id, FILES.values())
        )
    other = world.commit(items, batch="another")
    assert {a.outcome for a in other if isinstance(a, Result)} == {Outcome.EQUAL}


def test_a_lost_response_does_not_cause_a_second_commit(world: World, server: GitHttp) -> None:
    world.put(FILES)
    server.lose_pushes = 1
    assert set(world.codes(world.run()).values()) == {"moved"}
    assert len(world.bare.commits()) == 1
    assert world.skipped() == len(FILES)


def test_items_without_time_are_left_for_the_next_function(world: World) -> None:
    world.put(FILES)
    left = iter([60.0] * 15)
    context = StepContext(lambda: next(left, 15.0), work="b")
    answers = list(world.kind().transfer([Item("main", key) for key in FILES], context))
    later = [answer.item.name for answer in answers if isinstance(answer, Unfinished)]
    assert len(answers) == len(FILES)
    assert 0 < len(later) < len(FILES)
    assert set(world.bare.files()) == set(FILES) - set(later)


def test_verify_reports_uncommitted_items(world: World) -> None:
    world.put({"east/n/x": b"x"})
    (arrived,) = world.commit([Item("main", "east/n/x")])
    assert isinstance(arrived, Completed)
    world.bare.fill({"east/n/x": b"tampered"})
    context = StepContext(lambda: 60.0)
    (answer,) = world.kind().verify([arrived.item], context)
    assert isinstance(answer, Failure)
    assert answer.error.code.name == "NOT_ARRIVED"
    (gone,) = world.kind().verify([Item("main", "east/n/x", None)], context)
    assert isinstance(gone, Failure)
    (absent,) = world.kind().verify([Item("main", "east/n/never", None)], context)
    assert isinstance(absent, Completed)


def test_a_scan_continues_at_its_cursor(world: World) -> None:
    files = {f"c{c}/n/f{f}": b"x%d" % c for c in range(6) for f in range(3)}
    world.put(files)
    found: list[str] = []
    cursor, rounds = None, 0
    while rounds < 20:
        halts = iter([False] * 3 + [True] * 100)
        context = StepContext(lambda: 60.0, partial(next, halts, True))
        pages = list(world.kind().discover(EVERYTHING, cursor, context))
        if not pages:
            break
        found += [item.name for page in pages for item in page.items]
        cursor, rounds = pages[-1].cursor, rounds + 1
    assert rounds > 1
    assert sorted(found) == sorted(files)
