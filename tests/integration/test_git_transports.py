"""The git program over its three ways to a server, and all that can go wrong on them."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from syncline.clients.git import program as git
from syncline.clients.git.access import GitCredentials, GitRemote, SshCredentials, TokenCredentials
from syncline.clients.git.objects import blob_id
from syncline.clients.git.program import GitRetryPolicy
from syncline.clients.git.repository import (
    BlobContent,
    NewCommit,
    Person,
    RemoteBranch,
    RepositoryLocation,
    open_branch,
)
from syncline.clients.http.addresses import Route
from syncline.clients.http.retry import never_halted
from syncline.errors import SynclineError
from syncline.secrets import redact
from tests.rig.server import Server
from tests.standins.certificates import Authority
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import Bare, Sshd, make_bare, make_key, sshd
from tests.standins.programs import needs
from tests.standins.proxy import http_proxy

TOKEN: Final = "ghp_a-token-that-must-not-be-seen"
ME: Final = Person("Backup Bot", "backup@example.com")
FILES: Final = {f"c{c}/n{n}/f{f}": f"{c}{n}{f}".encode() for c in range(3) for n in range(2) for f in range(3)}


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return make_bare(tmp_path / "srv" / "r.git")


@pytest.fixture
def http(bare: Bare) -> Iterator[GitHttp]:
    with git_http(bare.path.parent, {"x-access-token": TOKEN}) as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    needs("sshd")
    with sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def place(
    url: str, access: GitCredentials = None, ca: str | None = None, proxy: str | None = None
) -> RepositoryLocation:
    return RepositoryLocation(GitRemote.parse(url), access, Route(ca, proxy))


def work(
    at: RepositoryLocation,
    branch: str = "main",
    left: Callable[[], float] = lambda: 60.0,
    halted: Callable[[], bool] = never_halted,
) -> RemoteBranch:
    """An open branch, for as long as nobody collects it."""
    opened = open_branch(at, branch, depth=2, left=left, halted=halted)
    made = opened.__enter__()
    made.keep = opened  # type: ignore[attr-defined]
    return made


def new(message: str = "changed\n") -> NewCommit:
    return NewCommit(message, ME, ME, 1_752_358_018)


def change(at: RepositoryLocation, path: str = "c1/n1/new", data: bytes = b"new", branch: str = "main") -> str:
    """One commit that adds a file, pushed."""
    with open_branch(at, branch, depth=2, left=lambda: 60.0) as opened:
        opened.fetch()
        opened.folders([path.rpartition("/")[0].encode()])
        opened.store([data])
        commit = opened.commit(new(), {path.encode(): blob_id(data)})
        opened.push(commit)
    return commit


def code(call: Callable[[], object]) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        call()
    assert TOKEN not in str(caught.value)
    return caught.value


# -- each of the three ways --------------------------------------------------------------------------------------------


@pytest.fixture(params=["http", "ssh", "file"])
def way(request: pytest.FixtureRequest, bare: Bare) -> RepositoryLocation:
    if request.param == "http":
        return place(request.getfixturevalue("http").url + "/r.git", TokenCredentials(TOKEN))
    if request.param == "ssh":
        server: Sshd = request.getfixturevalue("ssh")
        return place(server.url(bare), SshCredentials(server.key, server.known_hosts))
    return place(f"file://{bare.path}")


def test_a_commit_on_a_branch_that_is_there(way: RepositoryLocation, bare: Bare) -> None:
    first = bare.fill(FILES)
    large = os.urandom(9_000_000)
    with open_branch(way, "main", depth=2, left=lambda: 60.0) as branch:
        tip = branch.fetch()
        assert tip is not None
        assert tip.oid == first
        folders = branch.folders([b"", b"c0/n0", b"c0/absent", b"c0/n0/f0"])
        assert set(folders[b""]) == {b"c0", b"c1", b"c2"}
        assert folders[b"c0/n0"][b"f1"].oid == blob_id(FILES["c0/n0/f1"])
        assert folders[b"c0/absent"] == folders[b"c0/n0/f0"] == {}
        listed = {path.decode(): entry.oid for path, entry in branch.files(b"c2", folders[b""][b"c2"].oid)}
        assert listed == {path: blob_id(data) for path, data in FILES.items() if path.startswith("c2/")}
        branch.store([b"small"])
        oid = branch.store_stream(
            BlobContent(len(large), (large[at : at + 65536] for at in range(0, len(large), 65536)))
        )
        assert oid == blob_id(large)
        changes = {b"c0/n0/f0": None, b'c0/n0/a "b"\\c': blob_id(b"small"), b"c9/x/large": oid}
        branch.push(branch.commit(new(), changes))
    expected = {path: data for path, data in FILES.items() if path != "c0/n0/f0"}
    assert bare.files() == expected | {'c0/n0/a "b"\\c': b"small", "c9/x/large": large}
    bare.check()
    assert "3 files changed" in bare.git("log", "-1", "--stat", "--format=%an <%ae> %ad", "main")
    assert (
        bare.git("log", "-1", "--format=%an <%ae> %at", "main").strip() == "Backup Bot <backup@example.com> 1752358018"
    )


def test_the_first_commit_of_an_empty_repository(way: RepositoryLocation, bare: Bare) -> None:
    change(way)
    assert bare.files() == {"c1/n1/new": b"new"}
    assert len(bare.commits()) == 1
    change(way, branch="backups/other")
    assert bare.commits("backups/other") == ["changed"]
    bare.check()


def test_a_branch_that_moved_is_told_and_left_alone(way: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    branch = work(way)
    branch.fetch()
    branch.store([b"mine"])
    commit = branch.commit(new(), {b"c0/mine": blob_id(b"mine")})
    theirs = bare.fill({"c0/theirs": b"theirs"}, message="theirs")
    assert code(lambda: branch.push(commit)).code.name == "BRANCH_MOVED"
    assert bare.git("rev-parse", "main").strip() == theirs
    tip = branch.fetch()
    assert tip is not None
    assert tip.oid == theirs
    branch.folders([b"c0"])
    branch.push(branch.commit(new(), {b"c0/mine": blob_id(b"mine")}))
    assert bare.commits() == ["changed", "theirs", "filled"]
    assert bare.files()["c0/theirs"] == b"theirs"


def test_a_branch_made_meanwhile_is_not_overwritten(way: RepositoryLocation, bare: Bare) -> None:
    branch = work(way)
    assert branch.fetch() is None
    branch.store([b"mine"])
    commit = branch.commit(new(), {b"c0/mine": blob_id(b"mine")})
    theirs = bare.fill(FILES)
    assert code(lambda: branch.push(commit)).code.name == "BRANCH_MOVED"
    assert bare.git("rev-parse", "main").strip() == theirs


def test_a_hook_that_refuses_is_a_protected_branch(way: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    bare.refuse_pushes("GH006: Protected branch update failed")
    error = code(lambda: change(way))
    assert error.code.name == "BRANCH_PROTECTED"
    assert len(bare.commits()) == 1


def test_the_servers_limit_for_objects(way: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    bare.refuse_pushes("remote: error: File x is 120.00 MB; this exceeds the file size limit of 100.00 MB")
    assert code(lambda: change(way)).code.name == "OVER_LIMIT"


def test_a_repository_that_is_not_there(way: RepositoryLocation) -> None:
    url = way.remote.url.replace("r.git", "absent.git")
    assert code(lambda: change(place(url, way.access))).code.name == "REPOSITORY_ABSENT"


def test_a_commit_by_its_id_and_its_content(way: RepositoryLocation, bare: Bare) -> None:
    first = bare.fill(FILES)
    bare.fill({"c0/n0/f0": b"changed"})
    branch = work(way)
    assert branch.fetch_commit(first).oid == first
    entries = branch.folders([b"c0/n0"])[b"c0/n0"]
    wanted = [entry.oid for entry in entries.values()]
    with branch.blobs(wanted) as blobs:
        content = [b"".join(blob.chunks) for blob in blobs]
    assert content == [FILES[f"c0/n0/{name.decode()}"] for name in entries]
    assert code(lambda: branch.fetch_commit("1" * 40)).code.name == "NOT_FOUND"


def test_nothing_is_left_behind(
    way: RepositoryLocation, bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    change(way)
    bare.refuse_pushes("no")
    code(lambda: change(way, data=b"other"))
    assert list(folder.iterdir()) == []


# -- who we are, and who they are --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (None, "the server requires credentials and the sync has no `auth`, at http://"),
        (TokenCredentials("wrong-token"), "the server rejected the credentials, at http://"),
    ],
)
def test_a_wrong_token(http: GitHttp, access: GitCredentials, said: str) -> None:
    error = code(lambda: change(place(http.url + "/r.git", access)))
    assert error.code.name == "UNAUTHORIZED"
    assert error.what.startswith(f"git fetch: {said}")
    assert "Username" not in error.what


def test_a_refused_token_is_sent_once_and_a_renewed_one_at_once(
    http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    sent: list[str] = []
    takes = GitHttp.authorised

    def authorised(server: GitHttp, header: str) -> bool:
        if header:
            sent.append(header)
        return takes(server, header)

    monkeypatch.setattr(GitHttp, "authorised", authorised)
    refused = place(http.url + "/r.git", TokenCredentials("wrong-token"))
    said = {code(work(refused, branch=f"b{number}").fetch).what for number in range(5)}
    assert len(said) == 1
    assert len(sent) == 1
    assert work(place(http.url + "/r.git", TokenCredentials(TOKEN))).fetch() is not None


@pytest.mark.parametrize(("status", "name"), [(403, "FORBIDDEN"), (429, "THROTTLED"), (502, "SERVER_ERROR")])
def test_a_server_that_answers_otherwise(http: GitHttp, status: int, name: str) -> None:
    http.answer_with = status
    assert code(lambda: change(place(http.url + "/r.git", TokenCredentials(TOKEN)))).code.name == name


def test_a_failure_that_may_pass_is_tried_again_after_growing_pauses(http: GitHttp, bare: Bare) -> None:
    tip, naps = bare.fill(FILES), list[float]()
    http.answer_with = 503

    def nap(seconds: float) -> None:
        naps.append(seconds)
        http.answer_with = 503 if sum(naps) < 35 else None

    at = place(http.url + "/r.git", TokenCredentials(TOKEN))
    fetched = work(replace(at, retry=GitRetryPolicy(4, 5.0, nap))).fetch()
    assert fetched is not None
    assert (fetched.oid, sum(naps)) == (tip, 5.0 + 10.0 + 20.0)
    http.answer_with = 503
    naps.clear()
    assert code(work(replace(at, retry=GitRetryPolicy(2, 5.0, nap))).fetch).code.name == "SERVER_ERROR"
    assert sum(naps) == 5.0
    http.answer_with = 403
    assert code(work(replace(at, retry=GitRetryPolicy(2, 5.0, nap))).fetch).code.name == "FORBIDDEN"
    assert sum(naps) == 5.0, "what does not pass is not waited for"


def test_a_pause_before_another_try_ends_with_the_run(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    http.answer_with = 503
    naps: list[float] = []
    at = place(http.url + "/r.git", TokenCredentials(TOKEN))
    git = replace(at, retry=GitRetryPolicy(9, 60.0, naps.append))
    assert code(work(git, left=lambda: 1000.0, halted=lambda: sum(naps) > 3).fetch).code.name == "RUN_CANCELLED"
    assert sum(naps) < 10


def test_no_server() -> None:
    assert code(lambda: change(place("http://127.0.0.1:1/r.git"))).code.name == "UNREACHABLE"


def test_a_wrong_key(ssh: Sshd, bare: Bare, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    wrong = SshCredentials((tmp_path / "other").read_text(), ssh.known_hosts)
    error = code(lambda: change(place(ssh.url(bare), wrong)))
    assert error.code.name == "UNAUTHORIZED"
    assert error.what.startswith("git fetch: the server rejected the credentials (")
    assert (
        code(lambda: change(place(ssh.url(bare), SshCredentials("no key", ssh.known_hosts)))).code.name
        == "UNAUTHORIZED"
    )


def test_another_host_key_is_refused(ssh: Sshd, bare: Bare, tmp_path: Path) -> None:
    other = f"[127.0.0.1]:{ssh.port} {make_key(tmp_path / 'other')}"
    for known in (other, "", f"elsewhere {make_key(tmp_path / 'third')}"):
        error = code(lambda known=known: change(place(ssh.url(bare), SshCredentials(ssh.key, known))))  # type: ignore[misc]
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
def test_credentials_of_the_wrong_sort(url: str, access: GitCredentials) -> None:
    assert code(lambda: change(place(url, access))).code.name == "CONFIG_INVALID"


def test_no_secret_is_to_be_seen(http: GitHttp, ssh: Sshd, bare: Bare) -> None:
    """Every command line on this machine is looked at while a push is under way, over HTTP and over SSH."""
    bare.fill(FILES)
    seen: list[str] = []

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:  # it has ended
                continue

    http.before_push = [look, look]
    change(place(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert any("git-remote-http" in line or "remote-http" in line for line in seen), "a push was under way"
    hook = bare.path / "hooks" / "pre-receive"
    hook.write_text(
        f"#!/bin/sh\nfor f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done > {bare.path}/seen 2>&1\n"
    )
    hook.chmod(0o755)
    change(place(ssh.url(bare), SshCredentials(ssh.key, ssh.known_hosts)), data=b"by ssh")
    seen += (bare.path / "seen").read_text(errors="replace").splitlines()
    assert any("StrictHostKeyChecking=yes" in line for line in seen)
    secret_lines = [line for line in ssh.key.splitlines() if "PRIVATE KEY" not in line]
    for line in seen:
        assert TOKEN not in line
        if "git" not in line and "ssh" not in line:
            continue  # a server of another test, which has other secrets on its line
        assert redact(line).count("***") == line.count("***"), "no encoded form of a secret either"
        assert not any(secret in line for secret in secret_lines)


def test_what_a_person_configured_does_not_count(
    http: GitHttp, bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    (tmp_path / ".gitconfig").write_text('[user]\n\tname = wrong\n[url "file:///nowhere"]\n\tinsteadOf = http://127\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("GIT_SSH_COMMAND", "false")
    change(place(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert bare.commits()[0] == "changed"


def test_through_a_proxy(http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.fill(FILES)
    monkeypatch.setenv("no_proxy", "*")
    with http_proxy() as proxy:
        change(place(http.url + "/r.git", TokenCredentials(TOKEN), proxy=proxy.url))
        assert bare.commits()[0] == "changed"
        assert len(proxy.heads) == len(http.requests)


def test_through_a_tunnel_of_a_proxy(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.fill(FILES)
    monkeypatch.setenv("GIT_SSL_CAINFO", "/nowhere")  # of the machine
    authority, git = Authority(), GitHttp(bare.path.parent, {"x-access-token": TOKEN})
    with http_proxy() as proxy, Server(git.handle, tls=authority.server_context()) as server:
        url = f"https://127.0.0.1:{server.port}/r.git"
        change(place(url, TokenCredentials(TOKEN), authority.pem, proxy.url))
        assert bare.commits()[0] == "changed"
        assert len(proxy.heads) == server.connections
        assert "\r\nAuthorization" not in "".join(proxy.heads)


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_proxy_that_refuses(status: str) -> None:
    """It sees its own credentials, and none of the server's."""
    with http_proxy() as proxy:
        proxy.refuse = f'{status}\r\nProxy-Authenticate: Basic realm="proxy"'
        url = proxy.url.replace("http://", "http://ann:hunter2@")
        error = code(lambda: change(place("https://git.invalid/r.git", TokenCredentials(TOKEN), proxy=url)))
    assert error.code.name == "PROXY_REFUSED"
    assert f"through the proxy {proxy.url[7:]}: " in error.what
    assert "hunter2" not in error.what
    assert proxy.requests[0] == "CONNECT git.invalid:443"
    assert "\r\nAuthorization" not in "".join(proxy.heads)


# -- when things break -------------------------------------------------------------------------------------------------


def test_a_push_whose_answer_is_lost_is_known_to_have_landed(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    http.lose_pushes = 1
    commit = change(place(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert bare.git("rev-parse", "main").strip() == commit
    assert len(bare.commits()) == 2


def test_a_full_disk(tmp_path: Path, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of its own, a few hundred KiB large; where nobody may mount one, a limit on the size of files."""
    bare.fill(FILES)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        limited(bare)
        return
    monkeypatch.setattr("tempfile.tempdir", str(small))
    try:
        data = os.urandom(2_000_000)
        error = code(lambda: change(place(f"file://{bare.path}"), data=data))
        assert error.code.name == "DISK_FULL", error
        with open_branch(place(f"file://{bare.path}"), "main", depth=2, left=lambda: 60.0) as branch:
            branch.fetch()
            error = code(lambda: branch.store_stream(BlobContent(len(data), iter([data]))))
            assert error.code.name == "DISK_FULL"
        assert list(small.iterdir()) == []
        assert len(bare.commits()) == 1
    finally:
        subprocess.run(["umount", small], check=True)


def limited(bare: Bare) -> None:
    """The same without a file system: no file of a process may grow beyond 100 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        error = code(lambda: change(place(f"file://{bare.path}"), data=os.urandom(2_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.code.name in ("DISK_FULL", "GIT_FAILED")
    assert len(bare.commits()) == 1


def commit_one(branch: RemoteBranch) -> str:
    """Make a commit of one file, ready to be pushed."""
    branch.fetch()
    branch.folders([b"c0"])
    branch.store([b"x"])
    return branch.commit(new(), {b"c0/x": blob_id(b"x")})


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    waiting = threading.Event()
    http.before_push = [lambda: waiting.wait(30)]
    left = iter([60.0] * 7 + [0.3] * 10)
    branch = work(place(http.url + "/r.git", TokenCredentials(TOKEN)), left=lambda: next(left, 0.3))
    commit = commit_one(branch)
    error = code(lambda: branch.push(commit))
    waiting.set()
    assert error.code.name == "TIME_SHORT"
    assert code(lambda: work(place(http.url + "/r.git"), left=lambda: 0.0).fetch()).code.name == "TIME_SHORT"


def test_a_command_ends_when_its_run_is_cancelled(http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "_POLL_INTERVAL", 0.01)
    bare.fill(FILES)
    waiting, pushing = threading.Event(), threading.Event()

    def hang() -> None:
        pushing.set()
        waiting.wait(30)

    http.before_push = [hang]
    branch = work(place(http.url + "/r.git", TokenCredentials(TOKEN)), halted=pushing.is_set)
    commit = commit_one(branch)
    error = code(lambda: branch.push(commit))
    waiting.set()
    assert error.code.name == "RUN_CANCELLED"
    assert code(branch.fetch).code.name == "RUN_CANCELLED"


def test_a_blob_whose_bytes_are_not_as_many_as_said_is_not_kept(bare: Bare) -> None:
    branch = work(place(f"file://{bare.path}"))
    for size, chunks in ((5, [b"four"]), (5, [b"sixsix"]), (5, [])):
        assert code(lambda s=size, c=chunks: branch.store_stream(BlobContent(s, c))).code.name == "SOURCE_CHANGED"  # type: ignore[misc]


def test_a_signed_commit(bare: Bare, tmp_path: Path) -> None:
    needs("ssh-keygen")
    first = bare.fill(FILES)
    public = make_key(tmp_path / "signing")
    key = (tmp_path / "signing").read_text()
    branch = work(place(f"file://{bare.path}"))
    branch.fetch()
    branch.folders([b"c0"])
    branch.store([b"x"])
    signed = NewCommit("signed\n", ME, ME, 1_752_358_018, key)
    branch.push(branch.commit(signed, {b"c0/x": blob_id(b"x")}))
    (tmp_path / "allowed").write_text(f"{ME.email} {public}\n")
    verified = ["-c", f"gpg.ssh.allowedSignersFile={tmp_path}/allowed", "verify-commit", "main"]
    bare.git(*verified)
    assert bare.git("rev-parse", "main^").strip() == first
    assert bare.show("c0/x") == b"x"
    bare.check()
    (tmp_path / "allowed").write_text(f"{ME.email} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(subprocess.CalledProcessError):
        bare.git(*verified)


@pytest.mark.parametrize("status", [503, 403, 404])
def test_what_git_cannot_fetch_by_itself_has_a_code(bare: Bare, http: GitHttp, status: int) -> None:
    first = bare.fill(FILES)
    with open_branch(place(f"{http.url}/r.git", TokenCredentials(TOKEN)), "main", depth=2, left=lambda: 60.0) as branch:
        tip = branch.fetch()
        assert tip is not None
        http.answer_with = status
        known = {503: "SERVER_ERROR", 403: "FORBIDDEN", 404: "REPOSITORY_ABSENT"}[status]
        assert code(lambda: list(branch.files(b"", tip.tree))).code.name == known
        assert code(lambda: branch.set_tip("1" * 40)).code.name == known
        branch._blobs.add(blob_id(b"000"))

        def read() -> None:
            with branch.blobs([blob_id(b"000")]) as blobs:
                next(blobs)

        assert code(read).code.name == known
        http.answer_with = None
        read()
        assert len(list(branch.files(b"", tip.tree))) == len(FILES)
        assert branch.tip is not None
        assert branch.tip.oid == first
