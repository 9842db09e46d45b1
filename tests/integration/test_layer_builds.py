"""Builds of a layer that run at the same time share what pip installs, and each layer holds it once."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

TOP: Final = Path(__file__).parents[2]

# Stands in for Python. "pip install" publishes the finished folder, as a build that started a moment earlier would.
PYTHON: Final = """#!/bin/sh
case "$*" in
*"pip install"*)
    while [ "$1" != --target ]; do shift; done
    mkdir -p "$2/kubernetes/client/api" "$2/kubernetes/client/apis" "$2/kubernetes/client/models"
    echo "this build" >"$2/module.py"
    published=${2%.*}
    mkdir -p "$published"
    echo "another build" >"$published/module.py"
    ;;
-VV) echo "Python 3" ;;
esac
"""


@pytest.mark.parametrize("name", ["syncline", "kubernetes"])
def test_a_build_that_meets_the_result_of_another_one_uses_it(name: str, tmp_path: Path) -> None:
    layer = tmp_path / "layers" / name
    (layer / "syncline").mkdir(parents=True)
    for file in (TOP / "layers" / name).iterdir():
        if file.is_file():
            shutil.copy(file, layer)
    shutil.copytree(TOP / "requirements", tmp_path / "requirements")
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    built = tmp_path / "built"
    environ = os.environ | {"ARTIFACTS_DIR": str(built), "SYNCLINE_PYTHON": str(python)}

    subprocess.run(["make", f"build-{name.title()}Layer"], cwd=layer, env=environ, check=True, timeout=60)

    assert [file.read_text() for file in built.rglob("module.py")] == ["another build\n"]
    assert len(list((tmp_path / ".build").glob("*/*"))) == 1
