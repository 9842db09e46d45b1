"""GitLab's container registry API for one project, in front of a registry or of tags that a test defines.

Checked against GitLab's description of its API (see :mod:`tests.standins.openapi`). Its documentation
(https://docs.gitlab.com/api/container_registry/) adds:

- ``PRIVATE-TOKEN`` for personal, project and group tokens, ``JOB-TOKEN`` for jobs, ``Authorization: Bearer`` for OAuth;
  a deploy token is none of these (401). Without a token a private project is 404;
- lists have 20 entries a page, 100 at most; ``Link`` is absolute and has ``first``, ``next`` and ``last``; ``X-Total``
  is absent above 10,000; tags are listed by name, without digests;
- ``personal_access_tokens/self`` describes a personal, project or group token (https://docs.gitlab.com/api/personal_access_tokens/);
- a project is named by its number or by its path with ``%2F``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.rig.server import Reply, json_reply
from tests.standins.api import ApiServer, refusal
from tests.standins.openapi.description import Description
from tests.standins.registry import Registry

TOKEN: Final = "glpat-of-the-tests"
JOB_TOKEN: Final = "glcbt-of-the-tests"
PROJECT_ID: Final = 4711
DESCRIPTION: Final = Description("gitlab.json")

Tags = Mapping[str, Mapping[str, str]]


class Content(Protocol):
    """The content of the registry behind it: repositories, with their tags and digests."""

    def __call__(self) -> Tags: ...


def behind(registry: Registry, project: str) -> Content:
    """Return the repositories of a real registry that belong to a project."""

    def tags() -> Tags:
        found: dict[str, dict[str, str]] = {}
        names = json.loads(registry.authorized("GET", "/v2/_catalog?n=1000").body)["repositories"] or []
        for name in names:
            if name == project or name.startswith(f"{project}/"):
                listed = registry.request("GET", f"/v2/{name}/tags/list?n=10000", None, _rights(registry, name))
                found[name] = dict.fromkeys(
                    (json.loads(listed.body).get("tags") or []) if listed.status == 200 else [], ""
                )
        return found

    return tags


def _rights(registry: Registry, name: str) -> dict[str, str]:
    return {"Authorization": registry.auth.authorization(f"repository:{name}:pull")} if registry.auth else {}


class GitLabServer(ApiServer):
    """One GitLab with one project."""

    def __init__(self, content: Content, project: str = "group/project", *, public: bool = False) -> None:
        super().__init__(DESCRIPTION)
        self.content = content
        self.project = project
        self.public = public
        self.token_scopes: tuple[str, ...] = ("read_api",)
        self.token_expires: str | None = None  # a date
        self._ids: dict[str, int] = {}

    def own_answer(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        known = self._is_authenticated(headers)
        parts = urlsplit(target)
        if parts.path == "/api/v4/personal_access_tokens/self" and method == "GET":
            return self._own_token(headers)
        match = re.fullmatch(r"/api/v4/projects/([^/]+)/registry/repositories(?:/(\d+)/tags(?:/([^/]+))?)?", parts.path)
        if match is None or method != "GET":
            raise refusal(404, "404 Not Found")
        if unquote(match[1]) not in (self.project, str(PROJECT_ID)) or not (known or self.public):
            raise refusal(404, "404 Project Not Found")
        tags = self.content()
        query = parse_qs(parts.query)
        if match[2] is None:
            return self._page([self._repository(path) for path in sorted(tags)], query, parts.path)
        path = next((path for path in tags if self._id(path) == int(match[2])), None)
        if path is None:
            raise refusal(404, "404 Container Repository Not Found")
        if match[3] is None:
            return self._page([self._tag(path, name) for name in sorted(tags[path])], query, parts.path)
        name = unquote(match[3])
        if name not in tags[path]:
            raise refusal(404, "404 Tag Not Found")
        details = {"digest": tags[path][name], "total_size": 350224384, "created_at": "2026-01-06T16:49:51.272+00:00"}
        return json_reply({**self._tag(path, name), **details, "revision": "2" * 64, "short_revision": "2" * 9})

    def _own_token(self, headers: Mapping[str, str]) -> Reply:
        """Return the description of a personal, project or group token; others have none (401)."""
        if "private-token" not in headers:
            raise refusal(401, "401 Unauthorized")
        times = {"created_at": "2026-01-07T21:50:18.000Z", "last_used_at": None, "expires_at": self.token_expires}
        state = {"revoked": False, "active": True, "scopes": list(self.token_scopes)}
        return json_reply({"id": 7, "name": "syncline", "description": None, "user_id": 1, **times, **state})

    def _is_authenticated(self, headers: Mapping[str, str]) -> bool:
        """Return True if the caller is authenticated. Refuse a wrong token."""
        good = {"private-token": TOKEN, "job-token": JOB_TOKEN, "authorization": f"Bearer {TOKEN}"}
        given = {name: headers[name] for name in good if name in headers}
        if any(good[name] != value for name, value in given.items()):
            raise refusal(401, "401 Unauthorized")
        return bool(given)

    def _id(self, path: str) -> int:
        return self._ids.setdefault(path, len(self._ids) + 1)

    def _repository(self, path: str) -> dict[str, Any]:
        return {
            "id": self._id(path),
            "name": path.removeprefix(self.project).lstrip("/"),
            "path": path,
            "project_id": PROJECT_ID,
            "location": f"registry.example/{path}",
            "created_at": "2026-01-07T21:50:18.000Z",
            "cleanup_policy_started_at": None,
            "status": None,
        }

    def _tag(self, path: str, name: str) -> dict[str, Any]:
        return {"name": name, "path": f"{path}:{name}", "location": f"registry.example/{path}:{name}"}

    def _page(self, entries: list[dict[str, Any]], query: Mapping[str, list[str]], path: str) -> Reply:
        size = min(100, max(1, int(query.get("per_page", ["20"])[0])))
        page = max(1, int(query.get("page", ["1"])[0]))
        last = max(1, -(-len(entries) // size))
        links = {"first": 1, "last": last, **({"next": page + 1} if page < last else {})}
        text = ", ".join(
            f'<{self.url}{path}?{urlencode({"page": number, "per_page": size})}>; rel="{name}"'
            for name, number in links.items()
        )
        return json_reply(entries[(page - 1) * size : page * size], Link=text)
