"""Hostile servers with every client: an error code, little memory, and no request to another host."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from io import BytesIO
from typing import Any, Final

import pytest
import urllib3

from syncline.clients.file_manager.client import FileManager
from syncline.clients.github.client import Artifact, GitHub
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.kubernetes import client as cluster
from syncline.clients.kubernetes.client import Cluster, ServiceSource
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.made_up import Naps

DIGEST: Final = "sha256:" + "ab" * 32
DEEP: Final = b"[" * 200_000
METADATA: Final = "http://169.254.169.254/latest/meta-data/"
LAUGHS: Final = (
    b"<!DOCTYPE a [<!ENTITY a0 'aaaaaaaaaa'>"
    + b"".join(b"<!ENTITY a%d '%b'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12))
    + b"]><ListBucketResult>&a11;</ListBucketResult>"
)
"""An XML document of 1 KB that expands to 1 TB."""

Call = Callable[[ScriptedServer, Http], object]


def github_of(server: ScriptedServer, http: Http) -> GitHub:
    return GitHub(Endpoint.parse(server.url), lambda: "t0ken", http)


def registry_of(server: ScriptedServer, http: Http) -> Registry:
    return Registry(Endpoint.parse(server.url), lambda: RegistryCredentials("robot", "s3cret"), http)


def bucket_of(server: ScriptedServer, http: Http) -> Bucket:
    return Bucket(Endpoint.parse(server.url), "bucket", lambda: None, http)


CALLS: Final[dict[str, tuple[str, Call]]] = {
    "registry": ("/v2/a/tags/list", lambda server, http: list(registry_of(server, http).tags("a"))),
    "bucket": ("/bucket/", lambda server, http: list(bucket_of(server, http).pages(""))),
    "github": ("/repos/o/r/actions/runs/1", lambda server, http: github_of(server, http).run("o/r", 1)),
    "gitlab": (
        "/api/v4/projects/1/registry/repositories/1/tags/v",
        lambda server, http: GitLab(Endpoint.parse(server.url), "1", lambda: "t", http).tag(1, "v"),
    ),
    "quay": (
        "/api/v1/repository/o/a/tag/",
        lambda server, http: Quay(Endpoint.parse(server.url), lambda: "t", http).tags("o/a"),
    ),
    "file manager": (
        "/pubSubFullList",
        lambda server, http: FileManager(server.url, lambda: "t", http, nullcontext()).events(),
    ),
}


def code_of(call: Call, server: ScriptedServer, http: Http) -> str:
    with pytest.raises(SynclineError) as error:
        call(server, http)
    return error.value.code.name


def peak_of(call: Callable[[], object]) -> int:
    """Return the peak of memory that Python allocated during a call, in MiB."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] >> 20
    finally:
        tracemalloc.stop()


@cache
def bomb(mebibytes: int) -> bytes:
    """Return compressed zeros. Their size is a thousandth of the uncompressed size."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16), bytes(1 << 20)
    return b"".join([packer.compress(piece) for _ in range(mebibytes)]) + packer.flush()


@pytest.fixture
def http(naps: Naps) -> Http:
    return Http(naps.policy(attempts=1))


@pytest.mark.parametrize("name", CALLS)
def test_deeply_nested_json_or_xml_is_refused(server: ScriptedServer, http: Http, name: str) -> None:
    path, call = CALLS[name]
    server.on("GET", path, Reply(200, b"<a>" * 100_000 if name == "bucket" else DEEP))
    assert code_of(call, server, http) == "BAD_ANSWER"


@pytest.mark.parametrize("name", CALLS)
def test_a_decompression_bomb_takes_little_memory(server: ScriptedServer, http: Http, name: str) -> None:
    path, call = CALLS[name]
    server.on("GET", path, Reply(200, bomb(100), {"Content-Encoding": "gzip"}))
    codes: list[str] = []
    assert peak_of(lambda: codes.append(code_of(call, server, http))) < 64
    # A registry that lists too many tags in one response would send the same response again.
    assert codes == ["LISTING_TOO_LONG" if name == "registry" else "BAD_ANSWER"]


def test_expanding_xml_entities_take_little_memory(server: ScriptedServer, http: Http) -> None:
    path, call = CALLS["bucket"]
    server.on("GET", path, Reply(200, LAUGHS))
    codes: list[str] = []
    assert peak_of(lambda: codes.append(code_of(call, server, http))) < 64
    assert codes == ["BAD_ANSWER"]


def test_a_blob_at_a_metadata_address_gets_no_request(server: ScriptedServer, http: Http) -> None:
    server.on("GET", f"/v2/a/blobs/{DIGEST}", Reply(307, headers={"Location": METADATA}))
    assert code_of(lambda s, h: registry_of(s, h).open_blob("a", DIGEST), server, http) == "ADDRESS_REFUSED"


def test_a_download_at_a_metadata_address_gets_no_request(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/repos/o/r/actions/artifacts/1/zip", Reply(302, headers={"Location": METADATA}))
    artifact = Artifact(1, "a", 3, False, None, "")
    assert code_of(lambda s, h: github_of(s, h).content("o/r", artifact).size, server, http) == "ADDRESS_REFUSED"


def test_a_next_page_at_a_metadata_address_gets_no_request(server: ScriptedServer, http: Http) -> None:
    link = {"Link": f'<{METADATA}>; rel="next"'}
    server.on("GET", "/v2/a/tags/list", Reply(200, b'{"tags":["v"]}', link))
    assert code_of(CALLS["registry"][1], server, http) == "REDIRECTED"


class Login:
    """The login to a cluster with scripted responses."""

    def configuration(self, *, renewed: bool = False) -> Any:
        del renewed
        from kubernetes.client import Configuration  # noqa: PLC0415 - slow

        return Configuration(host="http://cluster.example")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, dict[str, str]], Cluster]:
    """Return a cluster that answers with a body and headers."""

    def made(body: bytes, headers: dict[str, str]) -> Cluster:
        def answer(*_: object, **__: object) -> urllib3.HTTPResponse:
            return urllib3.HTTPResponse(BytesIO(body), headers, 200, preload_content=False)

        monkeypatch.setattr(urllib3.PoolManager, "request", answer)
        return Cluster(Login(), Naps().policy(attempts=1))

    return made


@pytest.mark.parametrize(
    ("body", "headers"),
    [(DEEP, {}), (b" " * (cluster.MAX_PAGE + 1), {}), (bomb(100), {"content-encoding": "gzip"})],
    ids=["deep", "large", "bomb"],
)
def test_an_invalid_list_of_a_cluster_is_refused(
    answering: Callable[[bytes, dict[str, str]], Cluster], body: bytes, headers: dict[str, str]
) -> None:
    codes: list[str] = []

    def listed() -> None:
        with pytest.raises(SynclineError) as error:
            answering(body, headers).instances(ServiceSource("ns", "gateway"))
        codes.append(error.value.code.name)

    assert peak_of(listed) < 160
    assert codes == ["BAD_ANSWER"]


def test_the_hostile_inputs_are_hostile() -> None:
    assert len(bomb(20)) < 64 * 1024
    assert len(gzip.decompress(bomb(20))) == 20 << 20
    with pytest.raises(RecursionError):
        json.loads(DEEP)
