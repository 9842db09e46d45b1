"""A retry resolves each dead letter: its item is verified, fails again, or no longer exists."""

from __future__ import annotations

import pytest

from syncline.messages import Start
from syncline.model import EVERYTHING, Outcome, Run, Scope, Trigger
from syncline.store.runs import new_run_id
from tests.rig.images import SYNC, ImagesChain, ImagesWorld
from tests.standins.oci import Fault

APP, BASE = ("mirror/team/app", "1.0"), ("mirror/team/base", "1.0")


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    """Return a chain that has moved two images."""
    chain = registries.chain()
    for name in ("team/app", "team/base"):
        chain.source.store.add_image(name, "1.0", name.encode())
    configure(chain)
    assert chain.run().counts.moved == 2
    return chain


def configure(chain: ImagesChain, **more: object) -> None:
    chain.configure(target={"registry": chain.target.host, "plain_http": True, "prefix": "mirror"}, **more)


def retry(chain: ImagesChain, *keys: tuple[str, str], scope: Scope | None = None) -> Run:
    """Execute the run that `syncline retry` starts for dead letters of these items."""
    chain.clock.sleep(1)
    scope = scope or Scope.of(group for group, _ in keys)
    run, _ = chain.state.begin_run(SYNC, new_run_id(chain.clock.time), Trigger.RETRY, scope, asked=keys)
    chain.queues.start(Start(SYNC, Trigger.RETRY, scope, run=run.id))
    chain.pump.run()
    return chain.state.run(SYNC, run.id)


def solved(chain: ImagesChain, *keys: tuple[str, str]) -> set[tuple[str, str]]:
    """Return the items whose dead letters are resolved."""
    return {key for key, each in chain.state.failures.find(SYNC, keys).items() if each.solved}


@pytest.mark.parametrize("scope", [None, EVERYTHING])
def test_an_item_that_is_equal_now_is_verified(chain: ImagesChain, scope: Scope | None) -> None:
    run = retry(chain, APP, scope=scope)
    assert chain.results(run)[APP].outcome is Outcome.EQUAL
    assert (run.counts.failed, run.counts.skipped) == (0, 1 if scope is None else 2)
    assert solved(chain, APP, BASE) == {APP}


def test_a_moved_item_is_verified(chain: ImagesChain) -> None:
    chain.target.store.repositories["mirror/team/app"].tags.clear()
    run = retry(chain, APP)
    assert run.counts.moved == 1
    assert solved(chain, APP) == {APP}


def test_an_item_that_fails_again_is_not_resolved(chain: ImagesChain) -> None:
    chain.target.store.repositories["mirror/team/app"].tags.clear()
    chain.target.fault("PUT", "/v2/mirror/team/app/manifests/", Fault(403), times=None)
    run = retry(chain, APP)
    assert run.counts.failed == 1
    assert solved(chain, APP) == set()
    assert APP not in chain.dead_items(), "the item got a second dead letter"


def test_an_item_deleted_at_the_source_is_reported(chain: ImagesChain) -> None:
    chain.source.store.repositories["team/app"].tags = {"2.0": next(iter(chain.source.store.tags().values()))}
    run = retry(chain, APP)
    result = chain.results(run)[APP]
    assert (result.outcome, result.code) == (Outcome.FAILED, "ITEM_GONE")
    assert run.counts.failed == 1
    assert solved(chain, APP) == set()
    assert ("mirror/team/app", "1.0") not in chain.dead_items(), "the item got a second dead letter"


@pytest.mark.parametrize("scope", [None, EVERYTHING])
def test_a_tag_that_is_no_longer_selected_is_reported(chain: ImagesChain, scope: Scope | None) -> None:
    configure(chain, select={"tags": {"exclude": ["1.*"]}})
    run = retry(chain, APP, scope=scope)
    assert chain.results(run)[APP].code == "ITEM_GONE"
    assert solved(chain, APP) == set()


def test_a_repository_that_is_no_longer_selected_is_reported(chain: ImagesChain) -> None:
    configure(chain, select={"repositories": {"exclude": ["team/app"]}})
    run = retry(chain, APP, BASE)
    assert {key: each.code for key, each in chain.results(run).items() if each.code} == {
        ("mirror/team/app", "*"): "SOURCE_ABSENT"
    }
    assert solved(chain, APP, BASE) == {BASE}
    run = retry(chain, APP, BASE, scope=EVERYTHING)
    assert chain.results(run)[APP].code == "ITEM_GONE"


def test_an_item_of_a_former_target_is_reported(chain: ImagesChain) -> None:
    """Today: "nothing found: the source has nothing there", exit code 0, and the letters are gone."""
    chain.configure(target={"registry": chain.target.host, "plain_http": True, "prefix": "elsewhere"})
    run = retry(chain, APP, BASE)
    assert run.counts.failed == 2
    assert {each.code for each in chain.results(run).values()} == {"SOURCE_ABSENT"}
    assert solved(chain, APP, BASE) == set()


def test_a_group_whose_scan_failed_is_resolved_by_a_scan(chain: ImagesChain) -> None:
    whole = ("mirror/team/app", "*")
    assert retry(chain, whole).counts.failed == 0
    assert solved(chain, whole) == {whole}
    chain.source.fault("GET", "/v2/team/app/tags/list", Fault(403), times=None)
    assert retry(chain, whole, APP).counts.failed == 1
    assert solved(chain, APP) == set()
