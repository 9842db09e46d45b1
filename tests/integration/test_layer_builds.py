"""Concurrent builds of a layer share the packages that pip installs, and each layer contains them once."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

TOP: Final = Path(__file__).parents[2]

# Replaces Python 3.11. "pip install" publishes the finished folder, like a build that started a moment earlier.
PYTHON: Final = """#!/bin/sh
echo "$*" >>"$0.log"
case "$*" in
"-c import sys; print("*) echo 3.11 ;;
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


def project(folder: Path, name: str) -> Path:
    """Copy the input of the build of a layer; return the layer's folder."""
    layer = folder / "layers" / name
    (layer / "syncline").mkdir(parents=True)
    for file in (TOP / "layers" / name).iterdir():
        if file.is_file():
            shutil.copy(file, layer)
    shutil.copy(TOP / "layers" / "packages.mk", folder / "layers")
    shutil.copytree(TOP / "requirements", folder / "requirements")
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return layer


def build(folder: Path, name: str, **variables: str) -> Path:
    """Build a layer of a project; return its content."""
    built = folder / "built"
    environ = os.environ | {"ARTIFACTS_DIR": str(built), "SYNCLINE_PYTHON": str(folder / "python")} | variables
    command = ["make", f"build-{name.title()}Layer"]
    subprocess.run(command, cwd=folder / "layers" / name, env=environ, check=True, timeout=60)
    return built


@pytest.mark.parametrize("name", ["syncline", "kubernetes"])
def test_a_build_uses_the_result_of_a_concurrent_one(name: str, tmp_path: Path) -> None:
    project(tmp_path, name)
    built = build(tmp_path, name)
    assert [file.read_text() for file in built.rglob("module.py")] == ["another build\n"]
    assert len(list((tmp_path / ".build").glob("*/*"))) == 1


@pytest.mark.parametrize("name", ["syncline", "kubernetes"])
@pytest.mark.parametrize(
    ("variables", "options", "compiled"),
    [
        ({}, "--platform manylinux_2_28_{0} --platform manylinux2014_{0} --python-version 3.13", False),
        (
            {"SYNCLINE_LAYER_PYTHON": "3.12"},
            "--platform manylinux_2_28_{0} --platform manylinux2014_{0} --python-version 3.12",
            False,
        ),
        ({"SYNCLINE_LAYER_PLATFORM": "any"}, "--platform any --python-version 3.13", False),
        ({"SYNCLINE_LAYER_PYTHON": "3.11"}, "", True),
        ({"SYNCLINE_LAYER_PYTHON": "3.11", "SYNCLINE_LAYER_PLATFORM": "any"}, "--platform any", True),
    ],
)
def test_packages_suit_the_python_version_of_the_functions(
    name: str, variables: dict[str, str], options: str, compiled: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "with a space"
    project(folder, name)
    build(folder, name, **variables)
    calls = (folder / "python.log").read_text().splitlines()
    wanted = (
        f"--no-compile {options.format(platform.machine())} --only-binary=:all: --target"
        if options
        else "--no-compile --target"
    )
    assert [wanted in " ".join(call.split()) for call in calls if "pip install" in call] == [True]
    assert any("compileall" in call for call in calls) == compiled


def test_a_layer_is_rebuilt_if_the_list_of_removed_parts_changes(tmp_path: Path) -> None:
    prune = project(tmp_path, "kubernetes") / "prune"
    for _ in range(2):
        build(tmp_path, "kubernetes")
    assert len(list((tmp_path / ".build").glob("*/*"))) == 1
    prune.write_text(f"{prune.read_text()}\nrm -rf kubernetes/stream\n")
    build(tmp_path, "kubernetes")
    assert len(list((tmp_path / ".build").glob("*/*"))) == 2


def test_the_layer_has_every_file_of_the_package(tmp_path: Path) -> None:
    layer, package = project(tmp_path, "syncline"), TOP / "layers" / "syncline" / "syncline"
    shutil.copytree(package, layer / "syncline", dirs_exist_ok=True)
    built = build(tmp_path, "syncline") / "python" / "syncline"

    def files(folder: Path) -> set[str]:
        return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file() and each.suffix != ".pyc"}

    found = files(built)
    assert found == files(package)
    assert {"web/templates/base.html", "web/static/status.css", "web/static/htmx.min.js"} <= found
