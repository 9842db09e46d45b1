"""Programs of Debian's that some tests and examples run; the one place that says when one is absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PACKAGES: Final = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "nginx": "nginx libnginx-mod-http-lua",
    "promtool": "prometheus",
    "sshd": "openssh-server",
}  # where it is not named like the program


class ProgramAbsentError(RuntimeError):
    """A program is not installed; the text says how to get it."""


def program(name: str) -> str:
    """The path of a program; ProgramAbsentError if it is not installed."""
    # sbin is where Debian has servers, and not on every user's PATH
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise ProgramAbsentError(f"program {name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return path


def needs(*names: str) -> None:
    """In a test or fixture: skip if a program is absent. Where CI=true that is a failure, since CI has them all."""
    for name in names:
        try:
            program(name)
        except ProgramAbsentError as absent:
            _leave_out(str(absent))


@contextmanager
def needing(name: str) -> Iterator[None]:
    """Where what is inside turns out to need a program that is absent, that is said as everywhere."""
    try:
        yield
    except ProgramAbsentError:
        needs(name)
        raise


def needs_root(to_do: str) -> None:
    """The same where only root may do something."""
    if os.geteuid() != 0:
        _leave_out(f"only root may {to_do}")


def wants(path: str | None, how: str) -> str:
    """The same for a program that CI may lack, too; ``how`` says how to get it."""
    if path is None:
        _leave_out(how, ci_has_it=False)
    assert path is not None
    return path


def _leave_out(why: str, *, ci_has_it: bool = True) -> None:
    import pytest  # noqa: PLC0415 - the servers are also run outside of tests

    if ci_has_it and os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
