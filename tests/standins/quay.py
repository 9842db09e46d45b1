"""Quay's API for listings, in front of a registry or of repositories that a test defines.

Written from Quay's published API and behaviour (https://docs.quay.io/api/ and the project's source). Facts for
clients:

- ``GET /api/v1/repository?namespace=`` lists 100 repositories a page, by age. ``next_page`` is opaque, differs each
  time and is absent at the end. One that is too old or not Quay's own silently means page one. A namespace that does
  not exist has an empty list. So has a wrong token if anonymous access is on: unknown callers are anonymous,
  and anonymous callers see only public repositories, and only with ``public=true``.
- ``starred=true`` gets 400 for unknown callers, with a token of any scope.
- ``GET /api/v1/repository/{namespace/name}/tag/?limit=&page=&onlyActiveTags=`` lists the youngest tags first. A
  ``limit`` over 100 means 100, none means 50. Without ``onlyActiveTags`` it includes the tags' history.
- Robots are for the registry: their Basic credentials are ignored here, which makes them anonymous.
- ``page`` counts rows: a push while someone reads moves a tag to the next page, a deletion hides one.

Paths below ``/-/`` control the stand-in from another process: ``GET`` and ``DELETE /-/counts``,
``POST /-/refresh``, ``POST /-/events`` (the registry's notifications), ``POST /-/webhook`` (an address as the body).
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.fernet import Fernet, InvalidToken

from tests.rig.server import RefusalError, Reply, Request, Server, json_reply, reply
from tests.standins.certificates import Authority
from tests.standins.quay_source import Source, changes
from tests.standins.quay_store import STATES, Repository, Store, Tag
from tests.standins.registry import basic

PAGE: Final = 100
PAGE_TOKEN_LIFE: Final = 2 * 24 * 3600  # seconds
TOKEN: Final = "quay-api-token"

_TAGS: Final = re.compile(r"/api/v1/repository/([^/]+(?:/[^/]+)+)/tag/")
_TAG: Final = re.compile(r"/api/v1/repository/([^/]+(?:/[^/]+)+)/tag/([^/]+)")

Query = Mapping[str, list[str]]
Namespaces = frozenset[str] | None  # the namespaces that a caller may read; None means all


class QuayServer:
    """Runs in a thread of this process, or as a process by ``python -m tests.standins.quay``.

    ``token`` may read every namespace; ``tokens`` adds others with the namespaces each may read. ``anonymous`` is
    Quay's setting of that name. ``webhook`` gets a notification for every push that the registry reports.
    ``counts`` has the requests so far by kind: ``repositories``, ``starred``, ``tags``, ``other``.
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        token: str = TOKEN,
        tokens: Mapping[str, frozenset[str]] | None = None,
        anonymous: bool = True,
        webhook: str | None = None,
        tls: Authority | None = None,
        port: int = 0,
    ) -> None:
        self.source = source
        self.webhook = webhook
        self.counts: Counter[str] = Counter()
        self.deliveries: list[tuple[str, tuple[str, ...], int]] = []  # repository, tags, status or 0
        self._readers: dict[str, Namespaces] = {token: None, **(tokens or {})}
        self._anonymous = anonymous
        self._store = Store()
        self.without_write: set[str] = set()
        """Tokens without the scope ``repo:write``."""
        self.on_delete: Callable[[str, str], object] = lambda _repository, _tag: None
        """Called after a tag was deleted, so that the registry loses it, too."""
        self._cache: dict[tuple[str, str], Reply] = {}
        self._scripted: dict[str, deque[Reply]] = {}
        self._lock = threading.RLock()
        self._scheme = "https" if tls else "http"
        self._server = Server(self._answer, tls=tls.server_context() if tls else None, port=port)
        self._sender = ThreadPoolExecutor(1, "quay-webhooks")
        self.expire_page_tokens()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.host}"

    @property
    def events_url(self) -> str:
        """The address to which the registry behind it sends its notifications."""
        return f"{self.url}/-/events"

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self) -> None:
        self._server.stop()
        self._sender.shutdown()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, repository: str, tags: Mapping[str, Tag | str], *, state: str | None = None) -> None:
        """Point tags at manifests (by digest, or as :class:`Tag`); create the repository if it does not exist."""
        with self._changing() as store:
            store.put(repository, {n: Tag(t, 1000) if isinstance(t, str) else t for n, t in tags.items()})
        if state is not None:
            self.set(repository, state=state)

    def set(self, repository: str, *, state: str | None = None, public: bool | None = None) -> None:
        """Change a repository's state (``NORMAL``, ``READ_ONLY``, ``MIRROR``, ...) or its public visibility."""
        with self._changing() as store:
            entry = store.repository(repository)
            assert state is None or state in STATES, state
            entry.state = state or entry.state
            entry.public = entry.public if public is None else public

    def remove(self, repository: str, *tags: str) -> None:
        """Remove some tags of a repository, or the repository if none is named."""
        with self._changing() as store:
            if tags:
                store.end(repository, tags)
            else:
                del store.repositories[repository]

    def refresh(self) -> int:
        """Read the complete content of the registry behind it; return the number of tags."""
        assert self.source is not None, "no source registry is configured"
        found = self.source.read()
        with self._changing() as store:
            for name in set(store.repositories) - found.keys():
                del store.repositories[name]
            for name, tags in found.items():
                store.end(name, store.repository(name).alive().keys() - tags.keys())
                store.put(name, tags)
        return sum(map(len, found.values()))

    def learn(self, envelope: bytes) -> None:
        """Process a notification of the registry behind it, and notify the webhook of its pushes."""
        pushed: dict[str, list[str]] = {}
        with self._changing() as store:
            for change in changes(envelope):
                if change.tag is not None and change.now is not None:
                    store.put(change.repository, {change.tag: change.now})
                    pushed.setdefault(change.repository, []).append(change.tag)
                elif change.repository in store.repositories:
                    alive = store.repository(change.repository).alive()
                    gone = [n for n, row in alive.items() if n == change.tag or row.tag.digest == change.digest]
                    store.end(change.repository, gone)
        if self.webhook is not None:
            for repository, tags in pushed.items():
                self._sender.submit(self.push_notification, repository, tags)

    def push_notification(self, repository: str, tags: list[str], url: str | None = None) -> int:
        """Send Quay's webhook for a push; return the response's status, 0 if there was none."""
        address = url or self.webhook
        assert address is not None, "no webhook is configured"
        namespace, _, name = repository.partition("/")
        body = {
            "repository": repository,
            "namespace": namespace,
            "name": name,
            "docker_url": f"{self.host}/{repository}",
            "homepage": f"{self.url}/repository/{repository}",
            "updated_tags": tags,
        }
        status = _post(address, json.dumps(body).encode())
        self.deliveries.append((repository, tuple(tags), status))
        return status

    def expire_page_tokens(self) -> None:
        """Make every ``next_page`` issued so far stale."""
        self._pages = Fernet(Fernet.generate_key())

    def say_next(self, kind: str, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Give this response to the next request of a kind, instead of the correct one; may be called several times."""
        with self._lock:
            self._scripted.setdefault(kind, deque()).append(reply(status, body, content_type))

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        """Lock the store for a change, and drop every cached response."""
        with self._lock:
            self._cache.clear()
            yield self._store

    def _answer(self, request: Request) -> Reply:
        request.read()
        with self._lock:
            cached = self._cache.get((request.target, request.authorization))
            if cached is not None and request.method == "GET" and not self._scripted:
                self.counts["tags"] += 1  # nothing else is cached
                return cached
        path, _, query = request.target.partition("?")
        if path.startswith("/-/"):
            return self._control(request, path)
        with self._lock:
            return self._api(request, unquote(path), parse_qs(query, keep_blank_values=True))

    def _api(self, request: Request, path: str, query: Query) -> Reply:
        if (tag := _TAG.fullmatch(path)) and request.method == "DELETE":
            return self._delete_tag(request, tag[1], tag[2])
        tags = _TAGS.fullmatch(path)
        if tags:
            kind = "tags"
        elif path == "/api/v1/repository":
            kind = "starred" if _boolean(query, "starred") else "repositories"
        else:
            kind = "other"
        self.counts[kind] += 1
        scripted = self._scripted.get(kind)
        if scripted:
            answer = scripted.popleft()
            if not scripted:
                del self._scripted[kind]
            return answer
        if kind == "other":
            raise self._refusal(404, "not_found", "Not Found")
        if request.method != "GET":
            raise RefusalError(json_reply({"message": "The method is not allowed for the requested URL."}, 405))
        known, namespaces = self._caller(request.authorization)
        if not known and not self._anonymous:
            raise RefusalError(json_reply({"error": "Anonymous access is not allowed"}, 401))
        if tags is None:
            return self._repositories(query, namespaces, known=known)
        repository = self._readable(tags[1], namespaces, known=known)
        answer = self._tags(repository, query)
        self._cache[request.target, request.authorization] = answer
        return answer

    def _caller(self, authorization: str) -> tuple[bool, Namespaces]:
        """Return whether the caller is known, and the namespaces it may read."""
        parts = authorization.split()
        if len(parts) == 2 and parts[0].lower() == "bearer" and parts[1] in self._readers:
            return True, self._readers[parts[1]]
        return False, frozenset()

    def _repositories(self, query: Query, namespaces: Namespaces, *, known: bool) -> Reply:
        namespace = query.get("namespace", [""])[0]
        public, starred = _boolean(query, "public"), _boolean(query, "starred")
        if not (namespace or public or starred):
            words = "namespace, starred or public are required for this API call"
            raise self._refusal(400, "invalid_request", words)
        if starred:
            if not known:
                words = "The browser (or proxy) sent a request that this server could not understand."
                raise RefusalError(json_reply({"message": words}, 400))
            return json_reply({"repositories": []})
        member = known and (namespaces is None or namespace in namespaces)
        found: list[Repository] = []
        if member or public:
            start = self._start(query.get("next_page", [None])[0])
            found = list(self._store.of_namespace(namespace, start, public_only=not member))
        shown = [{**r.shown(), "is_starred": False} if known else r.shown() for r in found[:PAGE]]
        value: dict[str, Any] = {"repositories": shown}
        if len(found) > PAGE:
            value["next_page"] = self._pages.encrypt(json.dumps({"start_index": found[PAGE].id}).encode()).decode()
        return json_reply(value)

    def _start(self, page: str | None) -> int:
        if page is None:
            return 0
        try:
            return int(json.loads(self._pages.decrypt(page.encode(), PAGE_TOKEN_LIFE))["start_index"])
        except InvalidToken:
            return 0

    def _delete_tag(self, request: Request, name: str, tag: str) -> Reply:
        """Delete a tag and no other one of its manifest. The token needs the scope ``repo:write``."""
        self.counts["deleted"] += 1
        known, namespaces = self._caller(request.authorization)
        if not known:
            raise self._refusal(401, "invalid_token", "Requires authentication")
        if request.authorization.split()[1] in self.without_write:
            raise self._refusal(403, "insufficient_scope", "Unauthorized")
        repository = self._readable(name, namespaces, known=True)
        if tag not in repository.alive():
            raise self._refusal(404, "not_found", "Not Found")
        if repository.state != "NORMAL":
            raise self._refusal(503, "", f"Repository is in read only or mirror mode: {repository.state}")
        self._cache.clear()
        self._store.end(name, [tag])
        self.on_delete(name, tag)
        return reply(204, b"")

    def _readable(self, name: str, namespaces: Namespaces, *, known: bool) -> Repository:
        repository = self._store.repositories.get(name)
        member = known and (namespaces is None or name.partition("/")[0] in namespaces)
        if not member and not (repository and repository.public):
            if known:
                raise self._refusal(403, "insufficient_scope", "Unauthorized")
            raise self._refusal(401, "invalid_token", "Requires authentication")
        if repository is None or repository.state == "MARKED_FOR_DELETION":
            raise self._refusal(404, "not_found", "Not Found")
        return repository

    def _tags(self, repository: Repository, query: Query) -> Reply:
        limit = min(100, max(1, _number(query, "limit", 50)))
        page = max(1, _number(query, "page", 1))
        name = query.get("specificTag", [""])[0] or None
        rows = repository.history(only_active=_boolean(query, "onlyActiveTags"), name=name)
        first = (page - 1) * limit
        shown = [row.shown() for row in rows[first : first + limit]]
        return json_reply({"tags": shown, "page": page, "has_additional": len(rows) > first + limit})

    def _refusal(self, status: int, error_type: str, words: str) -> RefusalError:
        about = f"{self.url}/api/v1/error/{error_type}"
        value = {"detail": words, "error_message": words, "error_type": error_type, "title": error_type}
        return RefusalError(json_reply({**value, "type": about, "status": status}, status))

    def _control(self, request: Request, path: str) -> Reply:
        match request.method, path:
            case "GET", "/-/counts":
                return json_reply(self.counts)
            case "DELETE", "/-/counts":
                self.counts.clear()
            case "POST", "/-/refresh":
                return json_reply({"tags": self.refresh()})
            case "POST", "/-/events":
                self.learn(request.body)
            case "POST", "/-/webhook":
                self.webhook = request.body.decode() or None
            case _:
                return json_reply({}, 404)
        return json_reply({})


def _boolean(query: Query, name: str) -> bool:
    return query.get(name, ["false"])[0] not in ("false", "False", "FALSE", "0", "", "null")


def _number(query: Query, name: str, default: int) -> int:
    try:
        return int(query.get(name, [str(default)])[0])
    except ValueError:
        raise RefusalError(json_reply({"message": {name: "not a number"}}, 400)) from None


def _post(url: str, body: bytes) -> int:
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("POST", target, body, {"Content-type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def main(arguments: list[str] | None = None) -> None:
    """Serve until terminated; the first line of output is the address."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.quay", description="A stand-in for Quay's API.")
    parser.add_argument("--registry", required=True, help="the registry behind, as http://host:port")
    parser.add_argument("--user", default="", help="name:password for the registry")
    parser.add_argument("--token", default=TOKEN, help="the API token that may read everything")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--webhook", help="an address to tell of every push")
    options = parser.parse_args(arguments)
    name, colon, password = options.user.partition(":")
    source = Source(options.registry, (lambda _: basic(name, password)) if colon else None)
    server = QuayServer(source, token=options.token, port=options.port, webhook=options.webhook)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with server:
        server.refresh()
        print(server.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
