"""GitHub's API for builds, and the store that its downloads redirect to.

Checked against GitHub's published OpenAPI description (see :mod:`tests.standins.openapi`). GitHub's documentation adds
these rules:

- every request needs a ``User-Agent`` (403 without) and, where it is named, a known ``X-GitHub-Api-Version`` (400);
- a wrong token is 401, a right one without the repository 404; anonymous callers see public repositories, but no logs
  and no downloads (401, 403);
- runs of a workflow by its number or its file's name, not by its path; ``per_page`` is 100 at most; filtered lists end
  after 1,000; ``Link`` is absolute; the youngest run is first;
- a download answers 302 with an address that is valid for one minute, or 410 for an expired artifact;
- the store is another host. It refuses ``Authorization`` (400) and expired addresses (403, in XML). It supports only
  ranges that begin at an offset; it ignores one from the end and sends everything;
- attestations of a digest that has none are 404; version 2026-03-10 omits their bundles;
- an App's JWT must be signed by its key, with RS256, begin in the past and live for at most ten minutes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import re
import secrets
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.rig.server import FilePart, Reply, json_reply
from tests.standins.api import ApiServer, refusal
from tests.standins.openapi.cut import ERROR
from tests.standins.openapi.description import Description

URL_LIFE: Final = 60.0
MOST_FILTERED: Final = 1000
TOKEN: Final = "github-token-of-the-tests"
VERSIONS: Final = frozenset({"2022-11-28", "2026-03-10"})
WORKFLOW_ID: Final = 161335
DESCRIPTION: Final = Description("github.json", ERROR)


@dataclass
class Stored:
    """An artifact: its bytes, or a file that holds them. ``digest`` replaces the digest of the bytes."""

    id: int
    name: str
    content: bytes | Path
    expired: bool = False
    with_digest: bool = True
    digest: str | None = None

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def shown(self, url: str, run: Run) -> dict[str, Any]:
        digest = self.digest
        if self.with_digest and digest is None and isinstance(self.content, bytes):
            digest = f"sha256:{hashlib.sha256(self.content).hexdigest()}"
        return {
            **DESCRIPTION.minimal("artifact"),
            "id": self.id,
            "name": self.name,
            "size_in_bytes": self.size,
            "archive_download_url": f"{url}/actions/artifacts/{self.id}/zip",
            "expired": self.expired,
            "digest": digest,
            "created_at": iso(run.updated),
            "expires_at": iso(run.updated + 90 * 86400),
            "workflow_run": {"id": run.id, "head_branch": run.branch, "head_sha": run.sha},
        }


@dataclass
class Run:
    """A workflow run; times in Unix seconds.

    By default, its number is its position in the list, and it started when it was created. The logs of its earlier
    attempts are deleted except ``earlier_logs``.
    """

    id: int
    logs: Mapping[str, str | bytes] | bytes
    artifacts: list[Stored] = field(default_factory=list)
    workflow: str = "build.yml"
    branch: str = "main"
    event: str = "workflow_dispatch"
    status: str = "completed"
    conclusion: str | None = "success"
    created: float = 1_700_000_000.0
    updated: float = 1_700_003_600.0
    attempt: int = 1
    sha: str = "5" * 40
    logs_gone: bool = False
    number: int | None = None
    started: float | None = None
    earlier_logs: Mapping[int, Mapping[str, str | bytes] | bytes] = field(default_factory=dict)

    def shown(self, url: str, number: int) -> dict[str, Any]:
        return {
            **DESCRIPTION.minimal("workflow-run"),
            "id": self.id,
            "head_branch": self.branch,
            "head_sha": self.sha,
            "path": f".github/workflows/{self.workflow}",
            "run_number": number if self.number is None else self.number,
            "run_attempt": self.attempt,
            "event": self.event,
            "status": self.status,
            "conclusion": self.conclusion,
            "workflow_id": WORKFLOW_ID,
            "url": f"{url}/actions/runs/{self.id}",
            "html_url": f"https://github.example/runs/{self.id}",
            "created_at": iso(self.created),
            "updated_at": iso(self.updated),
            "run_started_at": iso(self.created if self.started is None else self.started),
        }

    def logs_zip(self, attempt: int) -> bytes | None:
        """Return the logs of an attempt, None if they are gone."""
        logs = self.earlier_logs.get(attempt) if attempt < self.attempt else None if self.logs_gone else self.logs
        return logs if logs is None or isinstance(logs, bytes) else zipped(logs)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def zipped(files: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass(frozen=True)
class AppKey:
    """An installed App, with its key in PEM form."""

    id: str
    installation: int
    pem: str
    public: rsa.RSAPublicKey

    @classmethod
    def make(cls, app: str = "1234", installation: int = 42) -> AppKey:
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        return cls(app, installation, pem.decode(), key.public_key())


class GitHubServer(ApiServer):
    """One GitHub with one repository. ``runs`` may be changed at any time; ``skew`` is added to its clock.

    ``ranges`` has the byte ranges requested from the store. ``cut`` is the number of next responses of the store that
    end in the middle; ``rejects`` that of valid addresses it rejects, as with a wrong clock. ``does_ranges`` enables
    ranges. Files are sent at ``rate`` bytes a second at most; ``sent`` counts their bytes. ``prefix`` is the path of
    GitHub Enterprise's API. ``attestations`` has the bundles of each digest.
    """

    def __init__(
        self,
        repository: str = "team/builds",
        *,
        tokens: tuple[str, ...] = (TOKEN,),
        app: AppKey | None = None,
        prefix: str = "",
        port: int = 0,
    ) -> None:
        super().__init__(DESCRIPTION, port)
        self.repository = repository
        self.runs: list[Run] = []
        self.attestations: dict[str, list[dict[str, Any]]] = {}
        self.tokens = set(tokens)
        self.app = app
        self.skew = 0.0
        self.ranges: list[tuple[str, int, int]] = []
        self.cut: list[int] = []
        self.rejects = 0
        self.does_ranges = True
        self.rate: float | None = None
        self.sent = 0
        self._prefix = prefix
        self._secret = secrets.token_bytes(16)
        self.store_url = f"http://localhost:{self.port}"
        self.repository_url = f"{self.url}{prefix}/repos/{repository}"

    def now(self) -> float:
        return time.time() + self.skew

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if target.startswith("/store/"):
            return self._stored(target, headers)
        return super().answer(method, target.removeprefix(self._prefix), headers, body)

    # -- the API ----------------------------------------------------------------------------------------------------

    def own_answer(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        if not headers.get("user-agent"):
            raise refusal(403, "Request forbidden by administrative rules. Please set a User-Agent header")
        version = headers.get("x-github-api-version")
        if version is not None and version not in VERSIONS:
            raise refusal(400, f'Version "{version}" is not supported')
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query, keep_blank_values=True)
        authorization = headers.get("authorization", "")
        if path.startswith("/app/") or path == f"/repos/{self.repository}/installation":
            return self._as_app(method, path, authorization)
        scheme, _, token = authorization.partition(" ")
        if authorization and (scheme.lower() not in ("bearer", "token") or token not in self.tokens):
            raise refusal(401, "Bad credentials")
        attested = re.fullmatch(rf"/repos/{re.escape(self.repository)}/attestations/(sha256:[0-9a-f]{{64}})", path)
        if method == "GET" and attested is not None:
            return self._attested(self.attestations.get(attested[1], []), query, target, version)
        prefix = f"/repos/{self.repository}/actions/"
        if method != "GET" or not path.startswith(prefix):
            raise refusal(404, "Not Found")
        return self._actions(path.removeprefix(prefix), query, target, known=bool(authorization))

    def _actions(self, path: str, query: Mapping[str, list[str]], target: str, *, known: bool) -> Reply:
        url = self.repository_url
        if match := re.fullmatch(r"workflows/([^/]+)/runs", path):
            return self._page("workflow_runs", self._listed(match[1], query), query, target)
        if match := re.fullmatch(r"artifacts/(\d+)/zip", path):
            artifact = next((each for run in self.runs for each in run.artifacts if each.id == int(match[1])), None)
            return self._download(artifact, f"/store/artifact/{match[1]}", known=known)
        match = re.fullmatch(r"runs/(\d+)(/artifacts|(?:/attempts/(\d+))?/logs)?", path)
        run = self._run(int(match[1])) if match else None
        if match is None or run is None or int(match[3] or 1) > run.attempt:
            raise refusal(404, "Not Found")
        if match[2] is None:
            return json_reply(run.shown(url, self.runs.index(run) + 1))
        if match[2] == "/artifacts":
            return self._page("artifacts", [each.shown(url, run) for each in run.artifacts], query, target)
        attempt = int(match[3] or run.attempt)
        if run.logs_zip(attempt) is None:
            raise refusal(404, "Not Found")
        return self._download(Stored(0, "logs", b""), f"/store/logs/{run.id}.{attempt}", known=known)

    def _listed(self, workflow: str, query: Mapping[str, list[str]]) -> list[dict[str, Any]]:
        if not any(workflow in (run.workflow, str(WORKFLOW_ID)) for run in self.runs):
            raise refusal(404, "Not Found")
        youngest = sorted(self.runs, key=lambda run: (run.created, run.id), reverse=True)
        runs = [run for run in youngest if workflow in (run.workflow, str(WORKFLOW_ID)) and _fits(run, query)]
        if set(query) - {"per_page", "page"}:
            runs = runs[:MOST_FILTERED]
        return [run.shown(self.repository_url, self.runs.index(run) + 1) for run in runs]

    def _page(self, key: str, entries: list[dict[str, Any]], query: Mapping[str, list[str]], target: str) -> Reply:
        size = min(100, max(1, int(query.get("per_page", ["30"])[0])))
        page = max(1, int(query.get("page", ["1"])[0]))
        links = {}
        if page * size < len(entries):
            rest = {name: values[0] for name, values in query.items() if name != "page"}
            there = f"{self.url}{self._prefix}{urlsplit(target).path}?{urlencode({**rest, 'page': page + 1})}"
            links["Link"] = f'<{there}>; rel="next", <{there}>; rel="last"'
        return json_reply({"total_count": len(entries), key: entries[(page - 1) * size : page * size]}, 200, **links)

    def _attested(
        self, bundles: list[dict[str, Any]], query: Mapping[str, list[str]], target: str, version: str | None
    ) -> Reply:
        """List bundles in pages, each of which names the last entry of the previous one."""
        if not bundles:
            raise refusal(404, "Not Found")
        size, at = min(100, int(query.get("per_page", ["30"])[0])), int(query.get("after", ["0"])[0])
        links = {}
        if at + size < len(bundles):
            there = f"{self.url}{self._prefix}{urlsplit(target).path}?per_page={size}&after={at + size}"
            links["Link"] = f'<{there}>; rel="next"'
        old = version is None or version < "2026-03-10"
        entries = [({"bundle": each} if old else {}) | {"repository_id": 1} for each in bundles[at : at + size]]
        return json_reply({"attestations": entries}, 200, **links)

    def _download(self, artifact: Stored | None, path: str, *, known: bool) -> Reply:
        if artifact is None:
            raise refusal(404, "Not Found")
        if not known:
            raise refusal(401, "Requires authentication")
        if artifact.expired:
            raise refusal(410, "Artifact has expired")
        until = self.now() + URL_LIFE
        there = f"{self.store_url}{path}?se={until:.3f}&sig={self._signature(path, until)}"
        return Reply(302, b"", {"Location": there})

    def _signature(self, path: str, until: float) -> str:
        return hmac.new(self._secret, f"{path} {until:.3f}".encode(), "sha256").hexdigest()

    def _run(self, number: int) -> Run | None:
        return next((run for run in self.runs if run.id == number), None)

    def _as_app(self, method: str, path: str, authorization: str) -> Reply:
        app = self.app
        if app is None or not self._is_app(app, authorization):
            raise refusal(401, "A JSON web token could not be decoded")
        if method == "GET" and path == f"/repos/{self.repository}/installation":
            about = {**DESCRIPTION.minimal("installation"), "id": app.installation, "app_id": int(app.id)}
            return json_reply(about)
        if method == "POST" and path == f"/app/installations/{app.installation}/access_tokens":
            token = f"ghs_{secrets.token_hex(18)}"
            self.tokens.add(token)
            return json_reply(
                {"token": token, "expires_at": iso(self.now() + 3600), "permissions": {"actions": "read"}}, 201
            )
        return json_reply({"message": "Not Found"}, 404)

    def _is_app(self, app: AppKey, authorization: str) -> bool:
        scheme, _, text = authorization.partition(" ")
        parts = text.split(".")
        if scheme != "Bearer" or len(parts) != 3:
            return False
        head, claims = (json.loads(_decoded(part)) for part in parts[:2])
        try:
            app.public.verify(_decoded(parts[2]), ".".join(parts[:2]).encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        times: bool = claims["iat"] <= self.now() < claims["exp"] <= self.now() + 600
        return bool(head["alg"] == "RS256" and claims["iss"] == app.id and times)

    # -- the store --------------------------------------------------------------------------------------------------

    def _stored(self, target: str, headers: Mapping[str, str]) -> Reply:
        """Return the store's response: a refusal, or content from the requested offset."""
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        if "Authorization" in headers:
            return _xml(400, "InvalidAuthenticationInfo")
        until, signature = float(query.get("se", ["0"])[0]), query.get("sig", [""])[0]
        if self.now() > until or not hmac.compare_digest(signature, self._signature(parts.path, until)):
            return _xml(403, "AuthenticationFailed")
        if self.rejects:
            self.rejects -= 1
            return _xml(403, "AuthenticationFailed")
        _, _, kind, number = parts.path.split("/")
        content = self._content(kind, number)
        if content is None:
            return _xml(404, "BlobNotFound")
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")) if self.does_ranges else None
        start, end = (int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)) if match else (0, size)
        if match and start >= size:
            return _xml(416, "InvalidRange")
        self.ranges.append((kind, start, end))
        body = (
            content[start:end] if isinstance(content, bytes) else FilePart(content, start, end, self.rate, self._count)
        )
        said = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if match else {}
        return Reply(206 if match else 200, body, said, cut=self.cut.pop(0) if self.cut else None)

    def _content(self, kind: str, number: str) -> bytes | Path | None:
        """Return the store's content for a number, None if it has been removed."""
        if kind == "logs":
            run_id, _, attempt = number.partition(".")
            run = self._run(int(run_id))
            return None if run is None else run.logs_zip(int(attempt))
        return next((each.content for run in self.runs for each in run.artifacts if each.id == int(number)), None)

    def _count(self, size: int) -> None:
        self.sent += size


def _fits(run: Run, query: Mapping[str, list[str]]) -> bool:
    wanted = {name: values[0] for name, values in query.items()}
    status = wanted.get("status")
    created = wanted.get("created", "")
    if created:
        assert created.startswith(">="), created
        limit = datetime.fromisoformat(created[2:]).timestamp()
        if run.created < limit:
            return False
    return (
        (status is None or status in (run.status, run.conclusion))
        and wanted.get("branch", run.branch) == run.branch
        and wanted.get("event", run.event) == run.event
        and wanted.get("head_sha", run.sha) == run.sha
    )


def _xml(status: int, code: str) -> Reply:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>refused</Message></Error>'
    return Reply(status, body.encode(), {"Content-Type": "application/xml"})


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
