"""A release is signed by a known key, lists its files, and is reproducible."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
AUTHOR = ("-c", "user.name=Syncline", "-c", "user.email=syncline@example.com")


def run(*command: object, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=ENVIRONMENT, input=text, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a small repository with the scripts, and a key that may sign."""
    folder = tmp_path / "checkout"
    shutil.copytree(TOP / "scripts", folder / "scripts")
    shutil.copytree(TOP / "requirements", folder / "requirements")
    (folder / "pyproject.toml").write_text('version = "1.2.3"\n')
    (folder / ".gitignore").write_text(".build/\n")
    for name in ("key", "stranger"):
        assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name, cwd=tmp_path).returncode == 0
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    (folder / "release-signers").write_text(f'release namespaces="syncline" {public}\n')
    run("git", "init", "-q", ".", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    assert run("git", *AUTHOR, "commit", "-q", "-m", "Begin", cwd=folder).returncode == 0
    return folder


def verified(checkout: Path, release: Path) -> bool:
    """Return True if a release passes the verification of docs/how-to/harden.md."""
    signers = checkout / "release-signers"
    words = ("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "release", "-n", "syncline", "-s", "SHA256SUMS.sig")
    signed = run(*words, cwd=release, text=(release / "SHA256SUMS").read_text())
    return signed.returncode == 0 and run("sha256sum", "--check", "SHA256SUMS", cwd=release).returncode == 0


def test_a_release_is_verified_and_reproducible(checkout: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = run("scripts/release", tmp_path / "key", tmp_path / name, cwd=checkout)
        assert (done.returncode, done.stderr) == (0, "")
        assert verified(checkout, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files.keys() == {"syncline-1.2.3.tar.gz", "sbom.json", "SHA256SUMS", "SHA256SUMS.sig"}
    assert all((tmp_path / "two" / name).read_bytes() == content for name, content in files.items())


@pytest.mark.parametrize("name", ["syncline-1.2.3.tar.gz", "sbom.json", "SHA256SUMS"])
def test_a_changed_release_fails_verification(checkout: Path, tmp_path: Path, name: str) -> None:
    assert run("scripts/release", tmp_path / "key", tmp_path / "one", cwd=checkout).returncode == 0
    with (tmp_path / "one" / name).open("ab") as file:
        file.write(b"\n")
    assert not verified(checkout, tmp_path / "one")


def test_an_unknown_key_signs_nothing(checkout: Path, tmp_path: Path) -> None:
    done = run("scripts/release", tmp_path / "stranger", tmp_path / "one", cwd=checkout)
    assert done.returncode == 2
    assert "is not in release-signers" in done.stderr
    assert not (tmp_path / "one").exists()


def test_uncommitted_changes_are_not_released(checkout: Path, tmp_path: Path) -> None:
    (checkout / "pyproject.toml").write_text('version = "1.2.4"\n')
    done = run("scripts/release", tmp_path / "key", tmp_path / "one", cwd=checkout)
    assert (done.returncode, "Commit or remove them first" in done.stderr) == (2, True)
