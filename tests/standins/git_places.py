"""Bare repositories for tests, filled and read by the git program, and a real sshd that serves them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.standins.programs import program

ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "somebody else",
    "GIT_AUTHOR_EMAIL": "else@example.com",
    "GIT_COMMITTER_NAME": "somebody else",
    "GIT_COMMITTER_EMAIL": "else@example.com",
    "LC_ALL": "C",
}


@dataclass(frozen=True)
class Bare:
    """A bare repository at ``path``, as its server sees it."""

    path: Path

    def git(self, *arguments: str, feed: bytes = b"") -> str:
        command = [program("git"), "-C", str(self.path), *arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.path), **ENVIRONMENT}
        return subprocess.run(command, env=environment, input=feed, check=True, capture_output=True).stdout.decode()

    def fill(self, files: Mapping[str, bytes], branch: str = "main", message: str = "filled") -> str:
        """Add a foreign commit with these files; return its ID."""
        ref = f"refs/heads/{branch}"
        there = self.git("for-each-ref", "--format=%(objectname)", ref).strip()
        stream = [b"commit " + ref.encode(), b"committer else <else@example.com> 1750000000 +0000"]
        stream += [b"data %d" % len(message), message.encode()]
        stream += [b"from " + there.encode()] if there else []
        for path, data in files.items():
            stream += [b"M 100644 inline " + path.encode(), b"data %d" % len(data), data]
        self.git("fast-import", "--quiet", feed=b"\n".join(stream) + b"\n")
        return self.git("rev-parse", ref).strip()

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """Return every file of a branch with its content, from one commit."""
        branch = self.git("rev-parse", f"refs/heads/{branch}").strip()
        names = [n for n in self.git("ls-tree", "-r", "-z", "--name-only", branch).split("\0") if n]
        return {name: self.show(name, branch) for name in names}

    def show(self, path: str, branch: str = "main") -> bytes:
        command = [program("git"), "-C", str(self.path), "cat-file", "blob", f"{branch}:{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def commits(self, branch: str = "main") -> list[str]:
        """Return the subjects of a branch's commits, newest first."""
        return self.git("log", "--format=%s", branch).splitlines()

    def check(self) -> None:
        """Check with git that every object and link of the repository is correct."""
        self.git("fsck", "--strict", "--full", "--no-dangling")

    def refuse_pushes(self, words: str) -> None:
        hook = self.path / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
        hook.chmod(0o755)


def make_bare(path: Path) -> Bare:
    """Return an empty bare repository that allows filtered fetches, as the well-known hosts do."""
    path.mkdir(parents=True)
    bare = Bare(path)
    bare.git("init", "--quiet", "--bare", "--initial-branch=main", ".")
    for name in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant", "http.receivepack"):
        bare.git("config", name, "true")
    return bare


@dataclass(frozen=True)
class Sshd:
    """An SSH server on the loopback interface; ``key`` grants access, ``known_hosts`` lists its host key."""

    port: int
    key: str
    known_hosts: str
    user: str

    def url(self, bare: Bare) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{bare.path}"


def make_key(path: Path) -> str:
    """Write a new Ed25519 key and its public half to ``path``; return the public half."""
    command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run a real sshd with new keys, as the user of the tests, until the block ends."""
    host = make_key(folder / "host")
    allowed = make_key(folder / "user")
    (folder / "authorized_keys").write_text(allowed + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PidFile none\nPermitRootLogin prohibit-password\nLogLevel ERROR\nAcceptEnv GIT_PROTOCOL\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd does not start without it; Debian's service creates it
    server = subprocess.Popen([program("sshd"), "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "sshd did not start"
                assert time.monotonic() < end, "sshd does not answer"
                time.sleep(0.02)
        user = (
            os.environ.get("USER")
            or subprocess.run(["id", "-un"], capture_output=True, check=True).stdout.decode().strip()
        )
        known = f"[127.0.0.1]:{port} {host}"
        yield Sshd(port, (folder / "user").read_text(), known, user)
    finally:
        server.terminate()
        server.wait()
