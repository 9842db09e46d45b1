"""Programs of Debian's that some tests and examples run; the one place that says when one is absent."""

from __future__ import annotations

import os
import shutil
from typing import Final

PACKAGES: Final = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "nginx": "nginx libnginx-mod-http-lua",
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
    import pytest  # noqa: PLC0415 - the servers are also run outside of tests

    for name in names:
        try:
            program(name)
        except ProgramAbsentError as absent:
            if os.environ.get("CI") == "true":
                pytest.fail(str(absent), pytrace=False)
            pytest.skip(str(absent))
