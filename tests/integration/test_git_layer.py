"""The layer's git without any file of this machine: in an otherwise empty root, and in that of another Debian."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest

from syncline.clients.git import program as git
from syncline.clients.git.access import GitRemote, SshCredentials
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import NewCommit, Person, RepositoryLocation, open_branch
from tests.standins.debian import mirror, proxies
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare, make_key, sshd
from tests.standins.programs import needs, needs_root, program

LAYER: Final = Path(__file__).parents[2] / "layers/git"
CACHE: Final = Path(__file__).parents[2] / ".build/another-debian"
OTHER: Final = "trixie"
FILES: Final = {f"c{c}/n/f{f}": f"{c}{f}".encode() for c in range(2) for f in range(3)}


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the layer as `sam build` makes it."""
    needs("git", "ssh", "make")
    into = tmp_path_factory.mktemp("layer")
    command = ["make", "--silent", "-C", str(LAYER), "build-GitLayer"]
    subprocess.run(
        command, env={"PATH": os.environ["PATH"], "ARTIFACTS_DIR": str(into)}, check=True, capture_output=True
    )
    return into / "git"


def root_with(layer: Path, root: Path) -> Path:
    """Return a root folder with the layer in the folder where Lambda unpacks it."""
    shutil.copytree(layer, root / "opt/git", symlinks=True)
    for name in ("tmp", "dev", "etc"):
        (root / name).mkdir(exist_ok=True)
    for name, minor in (("null", 3), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    (root / "etc/passwd").write_text("someone:x:0:0::/tmp:/bin/sh\n")
    return root


@pytest.fixture(params=["nothing else", "another Debian"])
def root(request: pytest.FixtureRequest, layer: Path, tmp_path: Path) -> Path:
    needs_root("change the root folder")
    if request.param == "nothing else":
        needs("busybox")  # Debian's busybox is statically linked
        made = tmp_path / "root"
        (made / "bin").mkdir(parents=True)
        for name in ("sh", "busybox"):
            shutil.copy(program("busybox"), made / "bin" / name)
    else:
        needs("debootstrap")
        if not CACHE.exists():
            new = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
            command = [program("debootstrap"), "--foreign", "--variant=minbase", OTHER, str(new), mirror()]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | proxies())
            new.rename(CACHE)
        made = tmp_path / "root"
        # Reading devices never ends, and the documents are many.
        shutil.copytree(CACHE, made, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys", "var", "share"))
        assert list(made.rglob("libc.so.6"))
    return root_with(layer, made)


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("chroot"), str(root), *arguments]
    return subprocess.run(command, env={"HOME": "/tmp"}, capture_output=True, text=True, check=False)


def test_the_programs_run_without_files_of_this_machine(root: Path) -> None:
    version = run(root, "/opt/git/bin/git", "--version")
    assert version.stdout.startswith("git version 2."), version.stderr
    assert run(root, "/opt/git/bin/ssh", "-V").stderr.startswith("OpenSSH")
    (root / "tmp/r").mkdir()
    script = """
        cd /tmp/r && g=/opt/git/bin/git && $g init -q --bare . &&
        printf 'commit refs/heads/main\\ncommitter x <x@y> 1 +0000\\ndata 0\\nM 100644 inline a\\ndata 1\\nx\\n' | $g fast-import --quiet &&
        $g clone -q --bare --depth=1 --filter=tree:2 file:///tmp/r /tmp/copy && $g --git-dir=/tmp/copy fsck --strict
    """
    done = run(root, "/bin/sh", "-c", script)
    assert done.returncode == 0, done.stderr
    # HTTP uses a separate program with many libraries. A failed connection shows that it found all of them.
    refused = run(root, "/opt/git/bin/git", "ls-remote", "http://127.0.0.1:1/r.git")
    assert "Failed to connect" in refused.stderr, refused.stderr


def test_a_commit_by_the_layers_programs(layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Push signed commits over HTTP and SSH with the layer's git, ssh and ssh-keygen."""
    needs("sshd")
    monkeypatch.setenv(git.PROGRAM_VARIABLE, str(layer / "bin/git"))
    git.program.cache_clear()
    try:
        assert git.program() == str(layer / "bin/git")
        bare = make_bare(tmp_path / "srv/r.git")
        bare.fill(FILES)
        (tmp_path / "keys").mkdir()
        public = make_key(tmp_path / "keys/signing")
        me = Person("Bot", "bot@example.com")
        new = NewCommit("changed\n", me, me, 1_752_358_018, (tmp_path / "keys/signing").read_text())
        (tmp_path / "sshd").mkdir()
        with git_http(bare.path.parent) as http, sshd(tmp_path / "sshd") as ssh:
            key = SshCredentials(ssh.key, ssh.known_hosts)
            for place in (
                RepositoryLocation(GitRemote.parse(f"{http.url}/r.git")),
                RepositoryLocation(GitRemote.parse(ssh.url(bare)), key),
            ):
                with open_branch(place, "main", depth=2, left=lambda: 60.0) as branch:
                    branch.fetch()
                    path = f"c0/n/{place.remote.protocol}".encode()
                    branch.folders([b"c0/n"])
                    branch.store([path])
                    branch.push(branch.commit(new, {path: blob_id(path)}))
        assert set(bare.files()) == {*FILES, "c0/n/http", "c0/n/ssh"}
        (tmp_path / "allowed").write_text(f"{me.email} {public}\n")
        bare.git("-c", f"gpg.ssh.allowedSignersFile={tmp_path}/allowed", "verify-commit", "main")
        bare.check()
    finally:
        git.program.cache_clear()
