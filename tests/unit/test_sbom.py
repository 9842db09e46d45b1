"""The bill of materials agrees with the pinned lists and is reproducible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def written(path: Path) -> bytes:
    subprocess.run([sys.executable, TOP / "scripts/sbom", path], check=True)
    return path.read_bytes()


def test_the_bill_lists_every_pinned_package_with_its_hashes(tmp_path: Path) -> None:
    bill = json.loads(written(tmp_path / "sbom.json"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    lists = [*(TOP / "requirements").glob("*.txt"), TOP / "tests/sam/image.txt"]
    pinned = {(name.lower(), version) for path in lists for name, version in PINNED.findall(path.read_text())}
    found = {(each["name"], each["version"]) for each in bill["components"]}
    assert found == {(re.sub(r"[-_.]+", "-", name), version) for name, version in pinned}
    for each in bill["components"]:
        assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        assert each["externalReferences"][0]["hashes"]
        assert {row["name"] for row in each["properties"]} >= {"syncline:list"}
    required = {each["name"] for each in bill["components"] if each["scope"] == "required"}
    assert "pydantic" in required
    assert "pytest" not in required


def test_the_bill_is_reproducible(tmp_path: Path) -> None:
    assert written(tmp_path / "one.json") == written(tmp_path / "two.json")
