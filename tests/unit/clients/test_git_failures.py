"""Messages of git, curl, ssh and the hosts, and their error codes."""

from __future__ import annotations

import errno

import pytest

from syncline.clients.git.access import GitRemote
from syncline.clients.git.failures import disk_full_as_error, error_of_git
from syncline.errors import SynclineError

MESSAGES = [
    ("fatal: repository 'https://host/x.git/' not found", "REPOSITORY_ABSENT"),
    ("fatal: '/srv/x.git' does not appear to be a git repository", "REPOSITORY_ABSENT"),
    ("remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found", "REPOSITORY_ABSENT"),
    ("fatal: Authentication failed for 'https://host/x.git/'", "UNAUTHORIZED"),
    ("fatal: could not read Username for 'https://host': terminal prompts disabled", "UNAUTHORIZED"),
    ("git@host: Permission denied (publickey).\nfatal: Could not read from remote repository.", "UNAUTHORIZED"),
    ("fatal: unable to access 'https://host/': The requested URL returned error: 403", "FORBIDDEN"),
    ("fatal: unable to access 'https://host/': The requested URL returned error: 429", "THROTTLED"),
    ("fatal: unable to access 'https://host/': The requested URL returned error: 502", "SERVER_ERROR"),
    ("fatal: unable to access 'https://host/': The requested URL returned error: 302", "REDIRECTED"),
    ("error: RPC failed; HTTP 413 curl 22 The requested URL returned error: 413", "OVER_LIMIT"),
    ("@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "HOST_KEY_REFUSED"),
    ("No ED25519 host key is known for host.\nHost key verification failed.", "HOST_KEY_REFUSED"),
    ("fatal: unable to access 'https://host/': Could not resolve host: host", "UNREACHABLE"),
    ("fatal: unable to access 'https://h/': Failed to connect to h port 443: Connection refused", "UNREACHABLE"),
    ("ssh: connect to host h port 22: Connection refused\nfatal: Could not read", "UNREACHABLE"),
    ("error: RPC failed; curl 28 Operation too slow. Less than 100 bytes/sec transferred the last 60 s", "TOO_SLOW"),
    ("fatal: the remote end hung up unexpectedly", "UNREACHABLE"),
    ("fatal: unable to access 'https://h/r.git/': CONNECT tunnel failed, response 403", "PROXY_REFUSED"),
    ("fatal: unable to access 'https://h/r.git/': CONNECT tunnel failed, response 429", "THROTTLED"),
    ("fatal: unable to access 'https://h/r.git/': CONNECT tunnel failed, response 408", "UNREACHABLE"),
    ("fatal: unable to access 'https://h/r.git/': Received HTTP code 407 from proxy after CONNECT", "PROXY_REFUSED"),
    ("fatal: unable to access 'https://h/r.git/': Received HTTP code 503 from proxy after CONNECT", "UNREACHABLE"),
    ("fatal: unable to access 'https://h/r.git/': Could not resolve proxy: proxy.invalid", "UNREACHABLE"),
    ("server certificate verification failed. CAfile: none CRLfile: none", "TLS_FAILED"),
    ("!\tx:refs/heads/main\t[rejected] (stale info)", "BRANCH_MOVED"),
    (
        "error: cannot lock ref 'refs/heads/bk/c': 'refs/heads/bk' exists; cannot create 'refs/heads/bk/c'",
        "BRANCH_BLOCKED",
    ),
    ("! [remote rejected] x -> bk/c (directory file conflict)", "BRANCH_BLOCKED"),
    ("! [remote rejected] x -> main (cannot lock ref 'refs/heads/main': is at 1 but expected 2)", "BRANCH_MOVED"),
    ("! [remote rejected] x -> main (pre-receive hook declined)", "BRANCH_PROTECTED"),
    ("remote: error: GH006: Protected branch update failed for refs/heads/main.", "BRANCH_PROTECTED"),
    ("remote: GitLab: You are not allowed to push code to protected branches on this project.", "BRANCH_PROTECTED"),
    (
        "remote: error: GH001: Large files detected.\n ! [remote rejected] x -> main (pre-receive hook declined)",
        "OVER_LIMIT",
    ),
    ("fatal: pack exceeds maximum allowed size (2.00 GiB)", "OVER_LIMIT"),
    ("fatal: write error: No space left on device", "DISK_FULL"),
    ("remote: fatal: write error: No space left on device\nerror: remote unpack failed: index-pack", "TARGET_FULL"),
    (
        "error: remote unpack failed: unable to create temporary object directory: No space left on device",
        "TARGET_FULL",
    ),
    (
        "remote: GitLab: This repository has exceeded its size limit.\n! [remote rejected] x (pre-receive hook declined)",
        "TARGET_FULL",
    ),
    ("fatal: transport 'file' not allowed", "REFUSED"),
    ("fatal: something that nobody has foreseen", "GIT_FAILED"),
]


@pytest.mark.parametrize(("message", "code"), MESSAGES)
def test_a_message_of_git_has_a_code(message: str, code: str) -> None:
    error = error_of_git("push", 1, message)
    assert error.code.name == code
    assert "\n" not in error.what


def test_a_signal_is_reported_and_a_long_message_cut() -> None:
    error = error_of_git("fetch", -9, "https://user:password@host/x said " + "w" * 1000)
    assert "signal 9" in error.what
    assert "password" not in error.what
    assert len(error.what) < 400


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_its_own_code(number: int) -> None:
    with pytest.raises(SynclineError) as caught, disk_full_as_error():
        raise OSError(number, "no room")
    assert caught.value.code.name == "DISK_FULL"
    with pytest.raises(PermissionError), disk_full_as_error():
        raise PermissionError


@pytest.mark.parametrize(
    ("text", "url", "protocol"),
    [
        ("https://github.com/org/b.git", "https://github.com/org/b.git", "https"),
        ("https://host:8443/b", "https://host:8443/b", "https"),
        ("git@github.com:org/b.git", "ssh://git@github.com/org/b.git", "ssh"),
        ("ssh://git@host:2222/org/b.git", "ssh://git@host:2222/org/b.git", "ssh"),
        ("file:///srv/b.git", "file:///srv/b.git", "file"),
    ],
)
def test_a_valid_address_is_parsed(text: str, url: str, protocol: str) -> None:
    remote = GitRemote.parse(text)
    assert (remote.url, remote.protocol) == (url, protocol)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b.git",
        "/srv/b.git",
        "-oProxyCommand=x:y",
        "ssh://-oProxyCommand=x/y",
        "ext::sh -c x",
        "https://user:hunter2@host/b",
        "https://token-hunter2@host/b",
        "https://host/b?x=hunter2",
        "https://host",
        "git://host/b",
        "https://host/a b",
        "https://169.254.169.254/b",
        "https://host:port/b",
        "ssh://a b@host/x",
    ],
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(SynclineError) as caught:
        GitRemote.parse(text)
    assert caught.value.code.name in ("CONFIG_INVALID", "ADDRESS_REFUSED")
    assert "hunter2" not in str(caught.value)
