"""Debian programs that some tests and examples run; the only module that reports an absent one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PACKAGES: Final = {
    "chromedriver": "chromium-driver",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "nginx": "nginx libnginx-mod-http-lua",
    "promtool": "prometheus",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
}  # packages that have another name than the program


GO_PACKAGES: Final = {
    "crane": "github.com/google/go-containerregistry/cmd/crane",
    "regsync": "github.com/regclient/regclient/cmd/regsync",
}


class ProgramAbsentError(RuntimeError):
    """A program is not installed; the text names its package."""


def program(name: str) -> str:
    """Return the path of a program; ProgramAbsentError if it is not installed."""
    # Debian installs servers in sbin, and Go programs in the user's folder; neither is on every user's PATH
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:{Path.home()}/go/bin")
    if path is None and name in GO_PACKAGES:
        raise ProgramAbsentError(f"program {name} is not installed: go install {GO_PACKAGES[name]}@latest")
    if path is None:
        raise ProgramAbsentError(f"program {name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return path


def needs(*names: str) -> None:
    """Skip a test or fixture if a program is absent. With CI=true, fail, since CI has them all."""
    for name in names:
        try:
            program(name)
        except ProgramAbsentError as absent:
            _skip(str(absent))


@contextmanager
def needing(name: str) -> Iterator[None]:
    """Skip or fail in the same way if the block needs an absent program."""
    try:
        yield
    except ProgramAbsentError:
        needs(name)
        raise


def needs_root(to_do: str) -> None:
    """Skip or fail in the same way unless the user is root."""
    if os.geteuid() != 0:
        _skip(f"only root may {to_do}")


def wants(path: str | None, how: str, *, ci_has_it: bool = False) -> str:
    """Skip if a program is absent, in CI too unless ``ci_has_it``; ``how`` describes how to get it."""
    if path is None:
        _skip(how, ci_has_it=ci_has_it)
    assert path is not None
    return path


def _skip(why: str, *, ci_has_it: bool = True) -> None:
    import pytest  # noqa: PLC0415 - the servers are also run outside of tests

    if ci_has_it and os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
