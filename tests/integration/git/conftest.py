"""A bare repository, and the servers that serve it over HTTP and SSH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.git.branches import TOKEN
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import Bare, Sshd, make_bare, sshd
from tests.standins.programs import needs


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
