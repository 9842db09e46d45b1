"""Output and effects of `scripts/environment`, with fake programs in place of Python and apt."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
FAKE_PYTHON: Final = """\
case "$*" in
    *version_info\\[:2\\]*) echo {version} ;;
    *"version_info <"*) exit {old} ;;
    *"import ensurepip"*) test -e {folder}/has-venv ;;
    "-m venv"*) mkdir -p made/bin && cp "$0" made/bin/python && echo "venv $*" >>{folder}/did ;;
    "-m pip"*) echo "pip $*" >>{folder}/did ;;
esac
"""


class Machine:
    """A folder with fake programs, first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "list.txt").write_text("a==1 --hash=sha256:00\n")
        self.python("3.12")
        self.provide_venv()
        self.program("id", "echo 1000")

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def python(self, version: str, *, old: bool = False) -> None:
        self.program("python3", FAKE_PYTHON.format(version=version, old=int(old), folder=self.folder))

    def provide_venv(self) -> None:
        (self.folder / "has-venv").touch()

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.folder}{os.pathsep}/usr/bin:/bin"}
        command = [str(ROOT / "scripts" / "environment"), "made", "list.txt"]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def did(self) -> list[str]:
        path = self.folder / "did"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_environment_is_made_from_the_list_with_hashes(machine: Machine) -> None:
    ended = machine.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "Installing list.txt into made\n"
    assert machine.did() == [
        "venv -m venv --clear made",
        "pip -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r list.txt",
    ]


def test_the_stamp_is_the_hash_of_the_list(machine: Machine) -> None:
    machine.run()
    wanted = hashlib.sha256((machine.folder / "list.txt").read_bytes()).hexdigest()
    assert (machine.folder / "made" / "requirements.sha256").read_text() == wanted


def test_a_second_call_does_nothing(machine: Machine) -> None:
    machine.run()
    before = machine.did()
    assert machine.run().stdout == ""
    assert machine.did() == before


def test_a_changed_list_is_installed_into_the_same_environment(machine: Machine) -> None:
    machine.run()
    (machine.folder / "list.txt").write_text("a==2 --hash=sha256:01\n")
    machine.run()
    assert [line.split()[0] for line in machine.did()] == ["venv", "pip", "pip"]


def test_another_python_version_recreates_the_environment(machine: Machine) -> None:
    machine.run()
    machine.python("3.13")
    machine.run()
    assert [line.split()[0] for line in machine.did()] == ["venv", "pip", "venv", "pip"]


def test_an_old_python_is_refused_with_one_line(machine: Machine) -> None:
    machine.python("3.9", old=True)
    ended = machine.run()
    assert ended.returncode == 2
    assert ended.stderr == (
        "python3 is Python 3.9, and Syncline needs 3.11 or later. Type: make PYTHON=/path/to/a/later/python3\n"
    )


def test_an_absent_python_is_reported_with_one_line(machine: Machine) -> None:
    command = [str(ROOT / "scripts" / "environment"), "made", "list.txt"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "python3.99"}
    ended = subprocess.run(
        command, cwd=machine.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert ended.stderr == "There is no python3.99. Type: sudo apt-get install python3 python3-venv\n"


def test_as_root_the_package_of_venv_is_installed(machine: Machine) -> None:
    (machine.folder / "has-venv").unlink()
    machine.program("id", "echo 0")
    machine.program("apt-get", f'echo "apt-get $*" >>{machine.folder}/did; touch {machine.folder}/has-venv')
    ended = machine.run()
    assert ended.returncode == 0
    assert "Installing python3.12-venv\n" in ended.stdout
    assert machine.did()[:2] == ["apt-get update -qq", "apt-get install -qq -y python3.12-venv"]


def test_as_another_user_the_command_that_installs_venv_is_printed(machine: Machine) -> None:
    (machine.folder / "has-venv").unlink()
    machine.program("apt-get", "false")
    ended = machine.run()
    assert ended.returncode == 2
    assert ended.stderr == "python3 has no venv. Type: sudo apt-get install python3.12-venv\n"
    assert not machine.did()
