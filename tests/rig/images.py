"""A chain between two in-memory registries, and the invariants after every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from syncline.messages import DeadLetter
from syncline.model import Outcome, Run
from tests.rig.chain import Chain
from tests.standins.oci import OciRegistry

SYNC: Final = "prod-to-dr"
Key = tuple[str, str]  # repository and tag


class ImagesChain(Chain):
    """Two registries and the steps between them; ``before`` is the target's content before the run."""

    def __init__(self, source: OciRegistry, target: OciRegistry, seed: int = 1) -> None:
        super().__init__(SYNC, {}, seed)
        self.source = source
        self.target = target
        self.before: dict[Key, str] = {}

    def configure(self, **more: Any) -> None:
        """Apply a sync of the source's complete catalog; ``more`` adds fields to its configuration."""
        endpoints = {
            "source": {"registry": self.source.host, "plain_http": True, "catalog": True},
            "target": {"registry": self.target.host, "plain_http": True},
        }
        self.apply({"kind": "images", "concurrency": 1, **endpoints, **more})

    def run(self, *groups: str) -> Run:
        self.remember()
        return super().run(*groups)

    def remember(self) -> None:
        """Record the tags of the target before a run."""
        self.before = self.target.store.tags()

    def dead_items(self) -> dict[Key, DeadLetter]:
        """Return the dead letters by item; the letter of a complete scope has the key ``("*", "*")``."""
        found: dict[Key, DeadLetter] = {}
        for dead in self.dead():
            found |= dict.fromkeys([(item.group, item.name) for item in dead.batch.items] or [("*", "*")], dead)
        return found

    def check(self, failing: Mapping[Key, str] | None = None) -> Run:
        """Check the invariants after any complete run. ``failing`` has the codes of failed items."""
        failing = failing or {}
        run = self.check_ended()
        results, dead = self.results(run), self.dead_items()
        wanted = self.source.store.tags()
        skipped = 0
        for key, digest in wanted.items():
            result, now, before = results.pop(key, None), self.target.store.digest(*key), self.before.get(key)
            if key in failing:
                assert result is not None
                assert (result.outcome, result.code) == (Outcome.FAILED, failing[key]), result
                assert (dead[key].code, dead[key].reason) == (result.code, result.reason)
                assert now in (before, digest)
            elif before == digest:
                assert result is None, result
                assert now == digest
                skipped += 1
            elif before is not None:
                assert result is not None
                assert (result.outcome, result.code) == (Outcome.CONFLICT, "TAG_DIFFERS"), result
                assert now == before
            else:
                assert result is not None, f"{key} has no result"
                assert result.outcome is Outcome.MOVED, result
                assert result.source == result.target == digest == now
        assert not results, f"results for items that are not at the source: {results}"
        assert dead.keys() == failing.keys()
        assert self.target.store.tags().keys() <= wanted.keys() | self.before.keys()
        assert not self.target.store.broken()
        counts = run.counts
        assert counts.skipped == skipped
        assert counts.failed == len(failing)
        assert counts.moved + counts.skipped + counts.conflict + counts.failed == len(wanted), counts
        return run

    def check_again(self) -> None:
        """Check that a second run finds everything equal, except conflicts, and moves nothing."""
        first = self.latest().counts
        self.reaper.plan = set()
        writes = len(self.reaper.effects)
        second = self.run().counts
        assert second.skipped == first.moved + first.skipped, second
        assert (second.moved, second.queued, second.failed, second.conflict) == (0, 0, 0, first.conflict), second
        assert not [each for each in self.reaper.effects[writes:] if "/v2/" in each], "a second run wrote to the target"
        self.check()


class ImagesWorld:
    """Two registries that one chain after another uses."""

    def __init__(self, source: OciRegistry, target: OciRegistry) -> None:
        self.source = source
        self.target = target

    def chain(self, seed: int = 1) -> ImagesChain:
        """Return a chain between the registries, after emptying them."""
        self.source.clear()
        self.target.clear()
        return ImagesChain(self.source, self.target, seed)


def small(chain: ImagesChain, **config: Any) -> ImagesChain:
    """Return a chain with three repositories and seven tags.

    They contain an index, layers shared within and across repositories, a signature, an equal tag and a conflicting
    one.
    """
    source, target = chain.source.store, chain.target.store
    base = b"the base layer that all share " * 40
    one = source.add_image("team/app", "1.0", base, b"app 1.0")
    two = source.add_image("team/app", None, base, b"app for another processor")
    source.add_index("team/app", "multi", one, two)
    source.add_image("team/app", f"sha256-{one.partition(':')[2]}.sig", b'{"a": "signature"}')
    source.add_image("team/base", "latest", base)
    source.add_image("team/web", "1.0", base, b"web 1.0")
    source.add_image("team/web", "2.0", base, b"web 2.0")
    source.add_image("team/web", "equal", b"the same on both sides")
    target.add_image("team/web", "equal", b"the same on both sides")
    target.add_image("team/web", "1.0", b"somebody else's web 1.0")
    chain.configure(**config)
    return chain
