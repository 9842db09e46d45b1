"""The unit of systemd, checked by systemd-analyze."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from syncline.cli import local_engine
from tests.standins.programs import needs, program

TOP: Final = Path(__file__).parents[2]
UNIT: Final = TOP / "deploy" / "systemd" / "syncline.service"
PROGRAM: Final = "/opt/syncline/bin/syncline"
WORST: Final = 1.5
"""The most exposure that is accepted, of 10. Most of it is that a sync reaches servers."""


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    needs("systemd-analyze")
    command = [program("systemd-analyze"), *arguments, "--no-pager"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _verified(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Verify a unit whose program exists."""
    installed = folder / "syncline"
    installed.touch(mode=0o755)
    unit = folder / UNIT.name
    unit.write_text(text.replace(PROGRAM, str(installed)))
    return _analyze("verify", "--man=no", str(unit))


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    done = _verified(tmp_path, UNIT.read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_a_misspelled_setting(tmp_path: Path) -> None:
    done = _verified(tmp_path, UNIT.read_text().replace("OOMPolicy", "OOMPolcy"))
    assert "OOMPolcy" in done.stderr


def test_the_exposure_is_bounded() -> None:
    done = _analyze("security", "--offline=yes", f"--threshold={WORST * 10:.0f}", str(UNIT))
    found = re.search(r"Overall exposure level for syncline.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= WORST
    assert done.returncode == 0


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keep the case of settings
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_waits_longer_than_the_command_does(service: configparser.SectionProxy) -> None:
    assert int(service["TimeoutStopSec"].removesuffix("s")) > local_engine._STOP_SECONDS
    assert service["KillMode"] == "mixed"  # the engine gets SIGTERM from the command alone


def test_the_guides_install_the_unit_in_the_same_six_lines() -> None:
    pages = [UNIT.with_name("README.md"), TOP / "docs/how-to/install-on-one-machine.md"]
    blocks = [re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)[0] for page in pages]
    assert blocks[0] == blocks[1]
    assert len(blocks[0].splitlines()) == 6
    assert f"cp {UNIT.relative_to(TOP)} /etc/systemd/system/" in blocks[0]
