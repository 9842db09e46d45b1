"""The client of the Quay API, with its stand-in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.quay import Quay, QuayRepository, QuayTag
from syncline.errors import SynclineError
from tests.standins.quay import TOKEN, QuayServer
from tests.standins.quay_store import Tag

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def server() -> Iterator[QuayServer]:
    with QuayServer(tokens={"for-org": frozenset({"org"}), "for-other": frozenset({"other"})}) as server:
        yield server


def client(server: QuayServer, *tokens: str | None) -> Quay:
    """Return a client that uses the tokens in order and then the last one. Without tokens, it uses the valid one."""
    waiting = list(tokens or (TOKEN,))
    return Quay(
        Endpoint.parse(server.url),
        lambda: waiting.pop(0) if len(waiting) > 1 else waiting[0],
        Http(RetryPolicy(attempts=1)),
    )


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def fill(server: QuayServer, repositories: int = 270) -> list[str]:
    names = [f"org/app-{number:03}" for number in range(repositories)]
    for name in names:
        server.put(name, {})
    return names


def code_of(error: pytest.ExceptionInfo[SynclineError]) -> str:
    return error.value.code.name


class TestRepositories:
    def test_270_repositories_are_listed_in_three_requests(self, server: QuayServer) -> None:
        names = fill(server)
        server.put("organisation/other", {})
        assert [r.name for r in client(server).repositories("org")] == names
        assert server.counts == {"repositories": 3}

    @pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200])
    def test_listings_at_page_boundaries_are_complete(self, server: QuayServer, count: int) -> None:
        names = fill(server, count)
        assert [r.name for r in client(server).repositories("org")] == names

    def test_nested_names_are_listed(self, server: QuayServer) -> None:
        server.put("org/a/b/c", {"v1": DIGEST})
        quay = client(server)
        assert list(quay.repositories("org")) == [QuayRepository("org/a/b/c", "NORMAL")]
        assert quay.tags("org/a/b/c") == {"v1": QuayTag(DIGEST, 1000, is_list=False)}

    def test_states_are_listed(self, server: QuayServer) -> None:
        for state in ("NORMAL", "READ_ONLY", "MIRROR", "ORG_MIRROR", "MARKED_FOR_DELETION"):
            server.put(f"org/{state.lower()}", {}, state=state)
        listed = list(client(server).repositories("org"))
        assert [r.state for r in listed] == ["NORMAL", "READ_ONLY", "MIRROR", "ORG_MIRROR"]

    def test_an_expired_page_token_is_detected(self, server: QuayServer) -> None:
        fill(server)
        listing = client(server).repositories("org")
        first = [next(listing).name for _ in range(100)]
        server.expire_page_tokens()
        with pytest.raises(SynclineError, match=f"'{first[0]}' came twice") as error:
            next(listing)
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_an_announced_page_without_entries_is_detected(self, server: QuayServer) -> None:
        names = fill(server, 101)
        listing = client(server).repositories("org")
        next(listing)
        server.remove(names[-1])
        with pytest.raises(SynclineError, match="empty") as error:
            list(listing)
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_a_repository_removed_from_an_earlier_page_hides_none(self, server: QuayServer) -> None:
        names = fill(server)
        listing = client(server).repositories("org")
        first = next(listing).name
        server.remove(first)
        assert [first, *(r.name for r in listing)] == names

    def test_a_token_that_expires_between_pages_is_detected(self, server: QuayServer) -> None:
        fill(server)
        # read once to choose the query, then for each request
        with pytest.raises(SynclineError, match="empty") as error:
            list(client(server, TOKEN, TOKEN, "bad").repositories("org"))
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_an_invalid_token_is_not_an_empty_namespace(self, server: QuayServer) -> None:
        fill(server, 3)
        server.set("org/app-000", public=True)
        with pytest.raises(SynclineError, match="rejects the API token") as error:
            list(client(server, "bad").repositories("org"))
        assert code_of(error) == "UNAUTHORIZED"
        assert server.counts == {"repositories": 1, "starred": 1}

    def test_an_invalid_token_without_anonymous_access_is_unauthorized(self) -> None:
        with QuayServer(anonymous=False) as server, pytest.raises(SynclineError) as error:
            list(client(server, "bad").repositories("org"))
        assert code_of(error) == "UNAUTHORIZED"

    def test_an_empty_namespace_has_no_repositories(self, server: QuayServer) -> None:
        assert list(client(server).repositories("org")) == []
        assert server.counts == {"repositories": 1, "starred": 1}

    def test_a_token_for_another_namespace_lists_nothing(self, server: QuayServer) -> None:
        fill(server, 3)
        assert list(client(server, "for-other").repositories("org")) == []
        assert len(list(client(server, "for-org").repositories("org"))) == 3

    def test_without_a_token_public_repositories_are_listed(self, server: QuayServer) -> None:
        names = fill(server)
        for name in names[::2]:
            server.set(name, public=True)
        assert [r.name for r in client(server, None).repositories("org")] == names[::2]

    def test_without_public_repositories_one_request_is_sent(self, server: QuayServer) -> None:
        fill(server, 3)
        assert list(client(server, None).repositories("org")) == []
        assert server.counts == {"repositories": 1}

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b"<html>", "not JSON"),
            (b"[]", "is not an object"),
            (b"{}", "`repositories` is not a list"),
            (b'{"repositories": {}}', "`repositories` is not a list"),
            (b'{"repositories": [], "next_page": 2}', "`next_page` is not text"),
        ],
    )
    def test_invalid_responses_are_refused(self, server: QuayServer, answer: bytes, words: str) -> None:
        server.say_next("repositories", 200, answer)
        with pytest.raises(SynclineError, match=words) as error:
            list(client(server).repositories("org"))
        assert code_of(error) == "BAD_ANSWER"

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ("app", "not an object"),
            ({"namespace": "org"}, "its `name` is null"),
            ({"namespace": "org", "name": ""}, 'its `name` is ""'),
            ({"namespace": "other", "name": "app"}, "not a repository of 'org'"),
            ({"namespace": "org", "name": "App"}, "has upper case letters"),
            ({"namespace": "org", "name": "app", "state": 1}, "its `state` is 1, not text"),
        ],
    )
    def test_an_invalid_entry_is_refused_by_default(self, server: QuayServer, entry: Any, words: str) -> None:
        server.say_next("repositories", 200, json.dumps({"repositories": [entry]}).encode())
        with pytest.raises(SynclineError, match=words) as error:
            list(client(server).repositories("org"))
        assert code_of(error) == "ENTRY_INVALID"

    def test_an_absent_state_means_normal(self, server: QuayServer) -> None:
        answer = {"repositories": [{"namespace": "org", "name": "app", "state": None}]}
        server.say_next("repositories", 200, json.dumps(answer).encode())
        assert list(client(server).repositories("org")) == [QuayRepository("org/app", "NORMAL")]


class TestTags:
    def test_250_tags_are_listed_in_three_requests(self, server: QuayServer) -> None:
        tags = {f"v{number}": Tag(digest(number), number) for number in range(250)}
        server.put("org/app", tags)
        found = client(server).tags("org/app")
        assert found == {name: QuayTag(tag.digest, tag.size, is_list=False) for name, tag in tags.items()}
        assert server.counts == {"tags": 3}

    def test_an_index_is_recognized(self, server: QuayServer) -> None:
        server.put("org/app", {"v1": Tag(DIGEST, None, is_list=True)})
        assert client(server).tags("org/app") == {"v1": QuayTag(DIGEST, None, is_list=True)}

    def test_moved_and_removed_tags_are_not_listed(self, server: QuayServer) -> None:
        server.put("org/app", {"v1": digest(1), "v2": digest(2), "v3": digest(3)})
        server.put("org/app", {"v1": digest(4)})
        server.remove("org/app", "v2")
        assert {n: t.digest for n, t in client(server).tags("org/app").items()} == {"v1": digest(4), "v3": digest(3)}

    def test_a_repository_without_tags_has_an_empty_list(self, server: QuayServer) -> None:
        server.put("org/app", {})
        assert client(server).tags("org/app") == {}

    def test_a_push_between_two_pages_is_detected(self, server: QuayServer) -> None:
        server.put("org/app", {f"v{number}": digest(number) for number in range(250)})
        requests = itertools.count(1)

        def token() -> str:
            if next(requests) == 3:
                server.put("org/app", {"v99": digest(1000)})  # the tag moves from the last page to the first
            return TOKEN

        quay = Quay(Endpoint.parse(server.url), token, Http(RetryPolicy(attempts=1)))
        with pytest.raises(SynclineError, match="came twice") as error:
            quay.tags("org/app")
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_a_repeated_page_is_detected(self, server: QuayServer) -> None:
        tag = {"name": "v1", "manifest_digest": DIGEST, "is_manifest_list": False, "size": 1}
        for _ in range(2):
            server.say_next("tags", 200, json.dumps({"tags": [tag], "page": 1, "has_additional": True}).encode())
        with pytest.raises(SynclineError, match="'v1' came twice") as error:
            client(server).tags("org/app")
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_endless_empty_pages_are_detected(self, server: QuayServer) -> None:
        server.say_next("tags", 200, b'{"tags": [], "page": 1, "has_additional": true}')
        with pytest.raises(SynclineError, match="empty") as error:
            client(server).tags("org/app")
        assert code_of(error) == "LISTING_INCOMPLETE"

    def test_a_server_without_the_api_is_an_error(self, server: QuayServer) -> None:
        server.say_next("repositories", 404, b"404 page not found")
        with pytest.raises(SynclineError, match=r"there is no Quay API at http://.*: correct `api.url`") as error:
            list(client(server).repositories("org"))
        assert code_of(error) == "NOT_FOUND"

    @pytest.mark.parametrize(
        ("token", "repository", "code"),
        [
            (TOKEN, "org/absent", "NOT_FOUND"),
            ("for-other", "org/app", "FORBIDDEN"),
            ("for-other", "org/absent", "FORBIDDEN"),
            ("bad", "org/app", "UNAUTHORIZED"),
            (None, "org/app", "UNAUTHORIZED"),
        ],
    )
    def test_a_request_without_access_has_a_code(
        self, server: QuayServer, token: str | None, repository: str, code: str
    ) -> None:
        server.put("org/app", {"v1": DIGEST})
        with pytest.raises(SynclineError) as error:
            client(server, token).tags(repository)
        assert code_of(error) == code

    def test_tags_of_a_public_repository_are_listed_with_an_invalid_token(self, server: QuayServer) -> None:
        server.put("org/app", {"v1": DIGEST})
        server.set("org/app", public=True)
        assert client(server, "bad").tags("org/app").keys() == {"v1"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"name": None}, "its `name` is null"),
            ({"name": "-v1"}, "begins with '-'"),
            ({"name": "v 1"}, "has characters other than"),
            ({"manifest_digest": None}, "its `manifest_digest` is null"),
            ({"manifest_digest": ""}, "not text"),
            ({"manifest_digest": "sha256:" + "AB" * 32}, "not a digest"),
            ({"manifest_digest": "sha256:" + "ab" * 31}, "not a digest"),
            ({"manifest_digest": DIGEST + "\n"}, "not a digest"),
            ({"manifest_digest": "md5:" + "ab" * 16}, "not a digest"),
            ({"size": "1"}, "not a whole number"),
            ({"is_manifest_list": 1}, "not true or false"),
        ],
    )
    def test_an_invalid_tag_is_refused(self, server: QuayServer, change: dict[str, Any], words: str) -> None:
        tag = {"name": "v1", "manifest_digest": DIGEST, "is_manifest_list": False, "size": 1, **change}
        server.say_next("tags", 200, json.dumps({"tags": [tag], "page": 1, "has_additional": False}).encode())
        with pytest.raises(SynclineError, match=words) as error:
            client(server).tags("org/app")
        assert code_of(error) == "ENTRY_INVALID"

    @pytest.mark.parametrize(
        "answer", [b"", b"null", b"{}", b'{"tags": []}', b'{"tags": [], "has_additional": "no"}', b'{"tags": [1]}']
    )
    def test_invalid_responses_are_refused(self, server: QuayServer, answer: bytes) -> None:
        server.say_next("tags", 200, answer)
        with pytest.raises(SynclineError) as error:
            client(server).tags("org/app")
        assert code_of(error) == "BAD_ANSWER"

    @pytest.mark.parametrize(
        ("start", "changed"),
        [
            (1_790_000_000, 1_790_000_000),
            (None, None),
            (0, None),
            (-1, None),
            (1.5, None),
            ("now", None),
            (10**400, None),
        ],
    )
    def test_a_tag_with_an_odd_time_is_listed_without_it(
        self, server: QuayServer, start: Any, changed: int | None
    ) -> None:
        tag = {"name": "v1", "manifest_digest": DIGEST, "is_manifest_list": False, "size": 1, "start_ts": start}
        answer = {"tags": [tag], "page": 1, "has_additional": False}
        server.say_next("tags", 200, json.dumps(answer).encode())
        assert client(server).tags("org/app")["v1"].changed == changed

    def test_an_older_quay_without_the_type_of_manifest_is_read(self, server: QuayServer) -> None:
        answer = {"tags": [{"name": "v1", "manifest_digest": DIGEST}], "page": 1, "has_additional": False}
        server.say_next("tags", 200, json.dumps(answer).encode())
        assert client(server).tags("org/app") == {"v1": QuayTag(DIGEST, None, is_list=False)}


@pytest.mark.parametrize(
    ("status", "body", "content_type", "code"),
    [
        (502, b"<html><title>502 Bad Gateway</title></html>", "text/html", "SERVER_ERROR"),
        (429, b"<html><title>429 Too Many Requests</title></html>", "text/html", "THROTTLED"),
        (520, b'{"detail": "An external service timed out"}', "application/json", "SERVER_ERROR"),
        (302, b"", "text/html", "REDIRECTED"),
        (204, b"", "text/html", "BAD_ANSWER"),
    ],
)
def test_failures_of_the_server_have_a_code(
    server: QuayServer, status: int, body: bytes, content_type: str, code: str
) -> None:
    server.say_next("tags", status, body, content_type)
    with pytest.raises(SynclineError) as error:
        client(server).tags("org/app")
    assert code_of(error) == code


def test_a_server_error_during_the_check_of_the_token_is_reported_as_such(server: QuayServer) -> None:
    server.say_next("starred", 502, b"<html></html>", "text/html")
    with pytest.raises(SynclineError) as error:
        list(client(server).repositories("org"))
    assert code_of(error) == "SERVER_ERROR"


def test_errors_do_not_contain_the_token(server: QuayServer) -> None:
    secret = "very-secret-token"
    quay = client(server, secret)
    for attempt in (lambda: list(quay.repositories("org")), lambda: quay.tags("org/app")):
        with pytest.raises(SynclineError) as error:
            attempt()
        assert secret not in repr(error.value)
        assert secret not in str(error.value)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[QuayServer]:
    with QuayServer() as server:
        yield server


_numbers = itertools.count()


@given(sizes=st.lists(st.one_of(st.none(), st.integers(0, 2**50)), max_size=320))
@settings(max_examples=25)
def test_tags_are_listed_with_the_fewest_requests(shared_server: QuayServer, sizes: list[int | None]) -> None:
    name = f"org/app-{next(_numbers)}"
    tags = {f"v{i}": Tag(digest(i), size, is_list=size is None) for i, size in enumerate(sizes)}
    shared_server.put(name, tags)
    shared_server.counts.clear()
    found = client(shared_server).tags(name)
    assert found == {n: QuayTag(t.digest, t.size, t.is_list) for n, t in tags.items()}
    assert shared_server.counts["tags"] == max(1, -(-len(tags) // 100))
