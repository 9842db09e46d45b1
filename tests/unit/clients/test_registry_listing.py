"""Catalog, tags and manifests of a scripted registry."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import Any

import pytest

from syncline.clients.registry.client import Registry, TagTakenError
from syncline.clients.registry.manifest import ARTIFACT_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps

TAGS = "/v2/org/app/tags/list"
MANIFESTS = "/v2/org/app/manifests/"
BODY = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}, indent=3).encode()
DIGEST = digest_of(BODY)
OTHER = digest_of(b"other")
WRONG = digest_of(b"wrong")
OTHER_ALGORITHM = f"sha512:{hashlib.sha512(BODY).hexdigest()}"
WRONG_512 = "sha512:" + "0" * 128
ANSWER = Reply(200, BODY, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": DIGEST})


def page(tags: list[str] | None, following: str | None = None) -> Reply:
    value = json_reply({"name": "org/app", "tags": tags})
    if following is None:
        return value
    return Reply(200, value.body, {"Link": f'<{following}>; rel="next"'})


def refusal(call: Any, *arguments: Any) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        list(call(*arguments))
    return caught.value


def test_tags_of_all_pages_are_listed(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", f"{TAGS}?n=100", page(["a", "b"], f"{TAGS}?n=100&last=b"))
    server.on("GET", f"{TAGS}?n=100&last=b", page([], f"{server.url}{TAGS}?n=100&last=c"))
    server.on("GET", f"{TAGS}?n=100&last=c", page(["b", "d"], "list?n=100&last=d"))
    server.on("GET", f"{TAGS}?n=100&last=d", page(["e"]))
    assert list(registry.tags("org/app")) == ["a", "b", "d", "e"]
    assert len(server.requests) == 4


@pytest.mark.parametrize("answer", [page(None), page([]), json_reply({}), errors_reply(404, "NAME_UNKNOWN")])
def test_a_repository_without_tags_has_an_empty_list(server: ScriptedServer, registry: Registry, answer: Reply) -> None:
    server.on("GET", TAGS, answer)
    assert list(registry.tags("org/app")) == []


@pytest.mark.parametrize("answer", [Reply(404), Reply(404, b"<html>nothing here</html>"), Reply(404, b"{}")])
def test_a_404_of_another_server_is_not_an_empty_list(
    server: ScriptedServer, registry: Registry, answer: Reply
) -> None:
    server.on("GET", TAGS, answer)
    assert refusal(registry.tags, "org/app").code.name == "NOT_FOUND"


def test_a_list_that_restarts_is_incomplete(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", TAGS, page(["a", "b"], f"{TAGS}?n=100"))
    error = refusal(registry.tags, "org/app")
    assert error.code.name == "LISTING_INCOMPLETE"
    assert error.retried


def test_a_list_that_repeats_pages_with_new_links_is_incomplete(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", TAGS, *(page(["a", "b"], f"{TAGS}?page={n}") for n in range(10)))
    assert refusal(registry.tags, "org/app").code.name == "LISTING_INCOMPLETE"
    assert len(server.requests) == 2


def test_a_next_page_at_another_host_is_refused(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry
) -> None:
    server.on("GET", TAGS, page(["a"], f"{other_server.url}{TAGS}"))
    assert refusal(registry.tags, "org/app").code.name == "REDIRECTED"
    assert other_server.requests == []


@pytest.mark.parametrize(
    "answer", [json_reply([]), json_reply({"tags": "v1"}), json_reply({"tags": {"v1": 1}}), Reply(200, b"<html>")]
)
def test_an_invalid_list_is_refused(server: ScriptedServer, registry: Registry, answer: Reply) -> None:
    server.on("GET", TAGS, answer)
    assert refusal(registry.tags, "org/app").code.name == "BAD_ANSWER"


def test_the_catalog_is_listed(server: ScriptedServer, registry: Registry) -> None:
    first = json_reply({"repositories": ["a", "b"]}, Link='</v2/_catalog?n=100&last=b>; rel="next"')
    server.on("GET", "/v2/_catalog?n=100", first)
    server.on("GET", "/v2/_catalog?n=100&last=b", json_reply({"repositories": ["c"]}))
    assert list(registry.catalog()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "UNAUTHORIZED"), (403, "REFUSED"), (404, "REFUSED"), (405, "REFUSED")]
)
def test_a_refused_catalog_has_a_code(server: ScriptedServer, registry: Registry, status: int, code: str) -> None:
    server.on("GET", "/v2/_catalog", errors_reply(status, "UNSUPPORTED", WWW_Authenticate="Basic"))
    error = refusal(registry.catalog)
    assert error.code.name == code
    assert "name them in syncs.yaml" in error.what


def test_a_digest_is_read_with_head(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", ANSWER)
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert server.requests[0].headers["accept"] == ", ".join((*MANIFEST_TYPES, *ARTIFACT_TYPES))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "head",
    [
        Reply(200),
        Reply(200, headers={"Docker-Content-Digest": "md5:1"}),
        Reply(200, headers={"Docker-Content-Digest": DIGEST.upper()}),
        Reply(405),
    ],
)
def test_a_digest_is_read_with_get_if_head_has_none(server: ScriptedServer, registry: Registry, head: Reply) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", head)
    server.on("GET", f"{MANIFESTS}v1", Reply(200, BODY, {"Content-Type": OCI_MANIFEST}), Reply(404))
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert registry.manifest_digest("org/app", "v1") is None


def test_a_missing_tag_has_no_digest(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", Reply(404), Reply(403))
    assert registry.manifest_digest("org/app", "v1") is None
    assert refusal(registry.manifest_digest, "org/app", "v1").code.name == "FORBIDDEN"


def test_a_manifest_requested_by_digest_has_that_digest(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", MANIFESTS + DIGEST, ANSWER, Reply(200, headers={"Docker-Content-Digest": OTHER}))
    server.on("GET", MANIFESTS + DIGEST, ANSWER)
    for _ in range(2):
        assert registry.manifest_digest("org/app", DIGEST) == DIGEST


def test_a_manifest_is_returned_unchanged(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", f"{MANIFESTS}v1", ANSWER, Reply(200, BODY, {"Content-Type": OCI_MANIFEST}, chunked=True))
    server.on("GET", MANIFESTS + DIGEST, ANSWER)
    for reference in ("v1", "v1", DIGEST):
        assert registry.manifest("org/app", reference) == Manifest(DIGEST, OCI_MANIFEST, BODY)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (OTHER, Reply(200, BODY, {"Content-Type": OCI_MANIFEST})),
        (OTHER, Reply(200, BODY, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OTHER})),
        ("v1", Reply(200, BODY, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OTHER})),
    ],
)
def test_a_manifest_with_another_digest_is_refused(
    server: ScriptedServer, registry: Registry, reference: str, answer: Reply
) -> None:
    server.on("GET", MANIFESTS + reference, answer)
    error = refusal(registry.manifest, "org/app", reference)
    assert error.code.name == "DIGEST_MISMATCH"
    assert error.retried


def test_a_manifest_of_schema_1_is_refused(server: ScriptedServer, registry: Registry) -> None:
    signed = {
        "Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "Docker-Content-Digest": OTHER,
    }
    server.on("GET", f"{MANIFESTS}v1", Reply(200, b'{"schemaVersion": 1}', signed))
    error = refusal(registry.manifest, "org/app", "v1")
    assert error.code.name == "MANIFEST_UNSUPPORTED"
    assert f"{registry.host}/org/app:v1" in error.what


def test_an_absent_manifest_is_not_found(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", f"{MANIFESTS}v1", errors_reply(404, "MANIFEST_UNKNOWN"))
    assert refusal(registry.manifest, "org/app", "v1").code.name == "NOT_FOUND"


@pytest.mark.parametrize("reference", ["", "a/b", "sha256:x", "../x", "v1?x"])
def test_an_invalid_reference_is_not_requested(server: ScriptedServer, registry: Registry, reference: str) -> None:
    for call in (registry.manifest, registry.manifest_digest):
        assert refusal(call, "org/app", reference).code.name == "REFERENCE_INVALID"
    assert server.requests == []


def test_a_manifest_is_put_unchanged(server: ScriptedServer, registry: Registry) -> None:
    server.on("PUT", f"{MANIFESTS}v1", Reply(201, headers={"Docker-Content-Digest": DIGEST}))
    registry.put_manifest("org/app", "v1", Manifest(DIGEST, OCI_INDEX, BODY))
    assert server.requests[0].body == BODY
    assert server.requests[0].headers["content-type"] == OCI_INDEX


def test_a_manifest_is_put_again_while_its_layer_is_not_yet_known(
    server: ScriptedServer, registry: Registry, naps: Naps
) -> None:
    settling = errors_reply(400, "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN")
    server.on("PUT", f"{MANIFESTS}v1", settling, settling, settling, Reply(201))
    registry.put_manifest("org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY))
    assert naps.slept == [0.25, 0.5, 1.0]


def test_a_manifest_whose_layer_stays_unknown_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    server.on("PUT", f"{MANIFESTS}v1", errors_reply(400, "MANIFEST_BLOB_UNKNOWN"))
    error = refusal(registry.put_manifest, "org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY))
    assert error.code.name == "REFUSED"
    assert "MANIFEST_BLOB_UNKNOWN" in error.what
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (errors_reply(400, "MANIFEST_INVALID"), "REFUSED"),
        (errors_reply(405, "UNSUPPORTED"), "READ_ONLY"),
        (Reply(413, b"<html><title>413 Request Entity Too Large</title></html>"), "TOO_LARGE"),
        (Reply(201, headers={"Docker-Content-Digest": OTHER}), "DIGEST_MISMATCH"),
    ],
)
def test_a_refused_manifest_has_a_code(server: ScriptedServer, registry: Registry, answer: Reply, code: str) -> None:
    server.on("PUT", f"{MANIFESTS}v1", answer)
    assert refusal(registry.put_manifest, "org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY)).code.name == code
    assert len(server.requests) == 1


def test_a_digest_of_another_algorithm_is_compared_by_the_bytes(server: ScriptedServer, registry: Registry) -> None:
    right, wrong = (Reply(201, headers={"Docker-Content-Digest": digest}) for digest in (OTHER_ALGORITHM, WRONG_512))
    server.on("PUT", f"{MANIFESTS}v1", right, wrong)
    registry.put_manifest("org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY))
    assert refusal(registry.put_manifest, "org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY)).code.name == (
        "DIGEST_MISMATCH"
    )


# -- a tag, put only if it did not change meanwhile


def shows(digest: str | None) -> Reply:
    """Return the response for a tag with this digest, or for an absent one."""
    return Reply(404) if digest is None else Reply(200, headers={"Docker-Content-Digest": digest})


@pytest.mark.parametrize("named", [DIGEST, OTHER_ALGORITHM])
def test_a_tag_that_is_equal_already_is_not_put(server: ScriptedServer, registry: Registry, named: str) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", shows(named))
    assert registry.put_tag("org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY), None) is None
    assert [request.method for request in server.requests] == ["HEAD"]


@pytest.mark.parametrize(
    ("seen", "before", "overwrite"),
    [(None, None, False), (OTHER, OTHER, False), (OTHER, None, False), (None, OTHER, True)],
)
def test_a_tag_is_put_and_the_replaced_digest_returned(
    server: ScriptedServer, registry: Registry, seen: str | None, before: str | None, *, overwrite: bool
) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", shows(before), shows(DIGEST))
    server.on("PUT", f"{MANIFESTS}v1", Reply(201))
    manifest = Manifest(DIGEST, OCI_MANIFEST, BODY)
    assert registry.put_tag("org/app", "v1", manifest, seen, overwrite=overwrite) == before
    assert [request.method for request in server.requests] == ["HEAD", "PUT", "HEAD"]


@pytest.mark.parametrize("seen", [None, WRONG])
def test_a_tag_that_another_writer_changed_is_kept(
    server: ScriptedServer, registry: Registry, seen: str | None
) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", shows(OTHER))
    error = refusal(registry.put_tag, "org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY), seen)
    assert isinstance(error, TagTakenError)
    assert (error.code.name, error.digest) == ("TAG_DIFFERS", OTHER)
    assert OTHER in error.what
    assert DIGEST in error.what
    assert not server.asked("PUT", f"{MANIFESTS}v1")


def test_a_tag_that_another_writer_changed_after_us_is_reported(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", shows(None), shows(OTHER))
    server.on("PUT", f"{MANIFESTS}v1", Reply(201))
    error = refusal(registry.put_tag, "org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY), None)
    assert error.code.name == "TAG_DIFFERS"
    assert OTHER in error.what
    assert DIGEST in error.what


@pytest.mark.parametrize("before", [None, OTHER])
def test_a_tag_that_becomes_visible_late_is_left_to_verify(
    server: ScriptedServer, registry: Registry, before: str | None
) -> None:
    server.on("HEAD", f"{MANIFESTS}v1", shows(before))
    server.on("PUT", f"{MANIFESTS}v1", Reply(201))
    assert registry.put_tag("org/app", "v1", Manifest(DIGEST, OCI_MANIFEST, BODY), before) == before


def test_the_error_of_a_changed_tag_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(TagTakenError(OTHER, "taken")))
    assert (error.digest, error.what, error.code.name) == (OTHER, "taken", "TAG_DIFFERS")


@pytest.mark.parametrize("name", ["", "Org/app", "../x", "org/app?x=", "org/app/../other", "org//app"])
def test_an_invalid_repository_is_not_requested(server: ScriptedServer, registry: Registry, name: str) -> None:
    for call in (registry.tags, registry.begin_upload):
        assert refusal(call, name).code.name == "REFERENCE_INVALID"
    for second in (registry.manifest, registry.manifest_digest):
        assert refusal(second, name, "v1").code.name == "REFERENCE_INVALID"
    assert server.requests == []
