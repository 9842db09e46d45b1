"""The step chain from a real S3 server to another bucket."""

from __future__ import annotations

import pytest

from tests.integration.files.contents import NAMES, fill
from tests.rig.files import FilesChain

pytestmark = pytest.mark.moto


class TestToAnotherBucket:
    @pytest.mark.parametrize("same_service", [True, False])
    def test_every_byte_is_moved(self, chain: FilesChain, *, same_service: bool) -> None:
        bucket, prefix = f"target-{str(same_service).lower()}", f"{chain.name}/"
        chain.make_bucket(bucket)
        target = {**chain.endpoint(bucket), "prefix": prefix, "same_service": same_service}
        # rclone finds an object under the other Unicode form of its name, so it cannot store both.
        names = [name for name in NAMES if name != "a\u0308"]
        fill(chain, names, target=target, removals={})
        run = chain.run()
        assert run.counts.moved == len(names)
        assert (run.counts.bytes == 0) == same_service
        there = chain.bucket_called(bucket)

        def found() -> dict[str, bytes]:
            keys = [each.key for page in there.pages(prefix) for each in page.objects]
            return {key.removeprefix(prefix): there.read(key, 1 << 20)[1] for key in keys}

        assert found() == chain.objects()
        chain.bucket.delete("a")
        chain.upload("b/c", b"changed")
        chain.run()
        assert found() == chain.objects()
        assert chain.run().counts.queued == 0

    def test_copies_within_a_service_are_verified_by_a_listing(self, chain: FilesChain) -> None:
        chain.make_bucket("target-listed")
        target = {**chain.endpoint("target-listed"), "prefix": f"{chain.name}/"}
        chain.configure(target=target, overwrite=True)
        for number in range(40):
            chain.upload(f"d{number % 2}/f{number}", b"%d" % number)
        run = chain.run()
        assert run.counts.moved == 40
        assert run.counts.requests == 40 + 4  # the copies, a listing of each side, and one of each folder
        assert set(chain.results(run)) == {key for key, _ in chain.records.scan()}

    def test_a_plan_says_where_a_run_may_find_a_conflict(self, chain: FilesChain) -> None:
        chain.make_bucket("target-planned")
        target = {**chain.endpoint("target-planned"), "prefix": f"{chain.name}/"}
        chain.configure(target=target)
        chain.upload("ours", b"one")
        chain.run()
        chain.upload("ours", b"changed")
        chain.upload("new", b"new")
        chain.upload("theirs", b"one")
        chain.bucket_called("target-planned").put(f"{chain.name}/theirs", b"another")
        chain.start(plan=True)
        chain.pump.run()
        reasons = {result.name: result.reason for result in chain.state.results(chain.latest().id)}
        assert (reasons["ours"], reasons["new"]) == (None, None)
        assert reasons["theirs"] is not None
        assert reasons["theirs"].startswith("the target has a file that this sync did not write: a conflict")
        assert chain.results(chain.run())["theirs"].code == "FILE_DIFFERS"
