"""Credentials, host keys and proxies of the git program, and what it must not reveal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from syncline.clients.git.access import GitCredentials, SshCredentials, TokenCredentials
from syncline.clients.git.program import GitRetryPolicy
from syncline.secrets import redact
from tests.integration.git.branches import FILES, TOKEN, error_of, location, opened_branch, push_file
from tests.rig.server import Server
from tests.standins.certificates import Authority
from tests.standins.git_http import GitHttp
from tests.standins.git_places import Bare, Sshd, make_key
from tests.standins.proxy import http_proxy


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (None, "the server requires credentials and the sync has no `auth`, at http://"),
        (TokenCredentials("wrong-token"), "the server rejected the credentials, at http://"),
    ],
)
def test_missing_and_wrong_credentials_are_named(http: GitHttp, access: GitCredentials, message: str) -> None:
    error = error_of(lambda: push_file(location(http.url + "/r.git", access)))
    assert error.code.name == "UNAUTHORIZED"
    assert error.what.startswith(f"git fetch: {message}")
    assert "Username" not in error.what


def test_a_refused_token_is_sent_only_once_and_a_new_one_at_once(
    http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    sent: list[str] = []
    is_authorised = GitHttp.authorised

    def authorised(server: GitHttp, header: str) -> bool:
        if header:
            sent.append(header)
        return is_authorised(server, header)

    monkeypatch.setattr(GitHttp, "authorised", authorised)
    refused = location(http.url + "/r.git", TokenCredentials("wrong-token"))
    messages = {error_of(opened_branch(refused, branch=f"b{number}").fetch).what for number in range(5)}
    assert len(messages) == 1
    assert len(sent) == 1
    assert opened_branch(location(http.url + "/r.git", TokenCredentials(TOKEN))).fetch() is not None


@pytest.mark.parametrize(("status", "name"), [(403, "FORBIDDEN"), (429, "THROTTLED"), (502, "SERVER_ERROR")])
def test_error_statuses_have_their_codes(http: GitHttp, status: int, name: str) -> None:
    http.answer_with = status
    assert error_of(lambda: push_file(location(http.url + "/r.git", TokenCredentials(TOKEN)))).code.name == name


def test_a_temporary_failure_is_retried_after_growing_pauses(http: GitHttp, bare: Bare) -> None:
    tip, pauses = bare.fill(FILES), list[float]()
    http.answer_with = 503

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        http.answer_with = 503 if sum(pauses) < 35 else None

    at = location(http.url + "/r.git", TokenCredentials(TOKEN))
    fetched = opened_branch(replace(at, retry=GitRetryPolicy(4, 5.0, pause))).fetch()
    assert fetched is not None
    assert (fetched.oid, sum(pauses)) == (tip, 5.0 + 10.0 + 20.0)
    http.answer_with = 503
    pauses.clear()
    assert error_of(opened_branch(replace(at, retry=GitRetryPolicy(2, 5.0, pause))).fetch).code.name == "SERVER_ERROR"
    assert sum(pauses) == 5.0
    http.answer_with = 403
    assert error_of(opened_branch(replace(at, retry=GitRetryPolicy(2, 5.0, pause))).fetch).code.name == "FORBIDDEN"
    assert sum(pauses) == 5.0, "a permanent failure was retried"


def test_cancelling_the_run_ends_the_pause_before_a_retry(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    http.answer_with = 503
    pauses: list[float] = []
    at = location(http.url + "/r.git", TokenCredentials(TOKEN))
    git = replace(at, retry=GitRetryPolicy(9, 60.0, pauses.append))
    assert (
        error_of(opened_branch(git, left=lambda: 1000.0, halted=lambda: sum(pauses) > 3).fetch).code.name
        == "RUN_CANCELLED"
    )
    assert sum(pauses) < 10


def test_an_unreachable_server_has_its_code() -> None:
    assert error_of(lambda: push_file(location("http://127.0.0.1:1/r.git"))).code.name == "UNREACHABLE"


def test_a_wrong_ssh_key_is_refused(ssh: Sshd, bare: Bare, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    wrong = SshCredentials((tmp_path / "other").read_text(), ssh.known_hosts)
    error = error_of(lambda: push_file(location(ssh.url(bare), wrong)))
    assert error.code.name == "UNAUTHORIZED"
    assert error.what.startswith("git fetch: the server rejected the credentials (")
    assert (
        error_of(lambda: push_file(location(ssh.url(bare), SshCredentials("no key", ssh.known_hosts)))).code.name
        == "UNAUTHORIZED"
    )


def test_an_unknown_host_key_is_refused(ssh: Sshd, bare: Bare, tmp_path: Path) -> None:
    other = f"[127.0.0.1]:{ssh.port} {make_key(tmp_path / 'other')}"
    for known in (other, "", f"elsewhere {make_key(tmp_path / 'third')}"):
        error = error_of(lambda known=known: push_file(location(ssh.url(bare), SshCredentials(ssh.key, known))))  # type: ignore[misc]
        assert error.code.name == "HOST_KEY_REFUSED"


@pytest.mark.parametrize(
    ("url", "access"),
    [
        ("https://host/r.git", SshCredentials("key", "host")),
        ("ssh://git@host/r.git", TokenCredentials("token")),
        ("ssh://git@host/r.git", None),
        ("file:///srv/r.git", TokenCredentials("token")),
    ],
)
def test_credentials_of_another_transport_are_refused(url: str, access: GitCredentials) -> None:
    assert error_of(lambda: push_file(location(url, access))).code.name == "CONFIG_INVALID"


def test_command_lines_contain_no_secret(http: GitHttp, ssh: Sshd, bare: Bare) -> None:
    """Read every command line of this machine during a push, over HTTP and over SSH."""
    bare.fill(FILES)
    seen: list[str] = []

    def read_command_lines() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:  # the process has ended
                continue

    http.before_push = [read_command_lines, read_command_lines]
    push_file(location(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert any("git-remote-http" in line or "remote-http" in line for line in seen), "no push was observed"
    hook = bare.path / "hooks" / "pre-receive"
    hook.write_text(
        f"#!/bin/sh\nfor f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done > {bare.path}/seen 2>&1\n"
    )
    hook.chmod(0o755)
    push_file(location(ssh.url(bare), SshCredentials(ssh.key, ssh.known_hosts)), data=b"by ssh")
    seen += (bare.path / "seen").read_text(errors="replace").splitlines()
    assert any("StrictHostKeyChecking=yes" in line for line in seen)
    secret_lines = [line for line in ssh.key.splitlines() if "PRIVATE KEY" not in line]
    for line in seen:
        assert TOKEN not in line
        if "git" not in line and "ssh" not in line:
            continue  # a server of another test, with other secrets in its command line
        assert redact(line).count("***") == line.count("***"), "a command line contains an encoded secret"
        assert not any(secret in line for secret in secret_lines)


def test_the_users_configuration_is_ignored(
    http: GitHttp, bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    (tmp_path / ".gitconfig").write_text('[user]\n\tname = wrong\n[url "file:///nowhere"]\n\tinsteadOf = http://127\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    push_file(location(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert bare.commits()[0] == "changed"


def test_a_push_through_a_proxy(http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.fill(FILES)
    monkeypatch.setenv("no_proxy", "*")
    with http_proxy() as proxy:
        push_file(location(http.url + "/r.git", TokenCredentials(TOKEN), proxy=proxy.url))
        assert bare.commits()[0] == "changed"
        assert len(proxy.heads) == len(http.requests)


def test_a_push_through_the_tunnel_of_a_proxy(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.fill(FILES)
    monkeypatch.setenv("GIT_SSL_CAINFO", "/nowhere")  # the machine's setting must be ignored
    authority, git = Authority(), GitHttp(bare.path.parent, {"x-access-token": TOKEN})
    with http_proxy() as proxy, Server(git.handle, tls=authority.server_context()) as server:
        url = f"https://127.0.0.1:{server.port}/r.git"
        push_file(location(url, TokenCredentials(TOKEN), authority.pem, proxy.url))
        assert bare.commits()[0] == "changed"
        assert len(proxy.heads) == server.connections
        assert "\r\nAuthorization" not in "".join(proxy.heads)


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_refusal_by_the_proxy_has_its_code(status: str) -> None:
    """The proxy receives its own credentials but not those of the server."""
    with http_proxy() as proxy:
        proxy.refuse = f'{status}\r\nProxy-Authenticate: Basic realm="proxy"'
        url = proxy.url.replace("http://", "http://ann:hunter2@")
        error = error_of(lambda: push_file(location("https://git.invalid/r.git", TokenCredentials(TOKEN), proxy=url)))
    assert error.code.name == "PROXY_REFUSED"
    assert f"through the proxy {proxy.url[7:]}: " in error.what
    assert "hunter2" not in error.what
    assert proxy.requests[0] == "CONNECT git.invalid:443"
    assert "\r\nAuthorization" not in "".join(proxy.heads)
