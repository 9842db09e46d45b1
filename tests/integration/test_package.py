"""The installed package: a wheel in an environment that contains only the requirements of its metadata."""

from __future__ import annotations

import filecmp
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement

from syncline import __version__
from syncline.cli.deploy import sam_settings
from syncline.cli.project import PARTS
from tests.standins.programs import needs
from tests.unit.test_template import OUTPUTS

TOP: Final = Path(__file__).parents[2]
_SHARED: Final = (".venv-engine", ".build")
"""Folders of a project that take minutes to fill. Projects of the tests share those of this checkout."""
_BUILD: Final = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
_IMPORT_ALL: Final = """
import importlib, pkgutil, syncline
# These run with the engine's own Python and in the container.
others = {"syncline.cli.engine_process", "syncline.web.server", "syncline.kinds.tokens.container"}
for each in pkgutil.walk_packages(syncline.__path__, "syncline."):
    if each.name not in others:
        importlib.import_module(each.name)
print(syncline.__file__)
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel, and an empty working folder for its programs."""

    wheel: Path
    environment: Path
    folder: Path

    def run(self, *command: object, status: int = 0) -> str:
        """Run the command ``syncline``; return its output, or its error message."""
        return self.program(self.environment / "bin" / "syncline", *command, status=status)

    def python(self, *command: object, environ: Mapping[str, str] = {}) -> str:
        """Run the environment's Python; return its output."""
        return self.program(self.environment / "bin" / "python", *command, environ=environ)

    def program(self, *command: object, status: int = 0, environ: Mapping[str, str] = {}) -> str:
        """Run a program without settings for Python or Syncline in its environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SYNCLINE_"))}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=kept | {"HOME": str(self.folder.parent), "XDG_DATA_HOME": "", **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build a wheel, and install it offline with the pinned versions of its requirements."""
    needs("make")
    top = tmp_path_factory.mktemp("package")
    source = copied_source(top / "source")
    built = Installed(build(source, "wheel", top / "wheel"), top / "environment", top / "empty folder")
    built.folder.mkdir()
    venv.create(built.environment, symlinks=True)
    metadata = importlib.metadata.PathDistribution(zipfile.Path(built.wheel, f"syncline-{__version__}.dist-info/"))
    requires = metadata.requires or []
    assert "~=" not in str(requires)  # requirements/command.in has the reason
    (packages,) = built.environment.glob("lib/python3.*/site-packages")
    for distribution in closure(requires):
        link(distribution, packages)
    pip(str(built.environment / "bin" / "python"), "install", "--no-index", str(built.wheel))
    return built


def copied_source(folder: Path) -> Path:
    """Return a copy of the files of this checkout from which a wheel is built."""
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    folder.mkdir()
    for name in sorted({*_BUILD, *(part.split("/")[0] for part in PARTS)}):
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, folder / name, ignore=left_out)
        else:
            shutil.copy(TOP / name, folder)
    return folder


def build(source: Path, what: str, folder: Path) -> Path:
    """Call a hook of the build backend like pip does; return the built file."""
    folder.mkdir()
    code = f"import setuptools.build_meta as backend; backend.build_{what}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = folder.iterdir()
    return built


def pip(python: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def closure(requirements: list[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the pinned packages of requirements, with their dependencies. Each must be in its required range."""
    waiting, seen = [(Requirement(each), "syncline") for each in requirements], set[tuple[str, str]]()
    while waiting:
        requirement, who = waiting.pop()
        for extra in requirement.extras or {""}:
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            distribution = importlib.metadata.distribution(requirement.name)
            fits = requirement.specifier.contains(distribution.version, prereleases=True)
            assert fits, f"{who} requires {requirement}, but the pinned version is {distribution.version}"
            asked = map(Requirement, distribution.requires or [])
            chosen = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": extra})]
            waiting.extend((each, requirement.name) for each in chosen)
            yield distribution


def link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Link the modules and the metadata of a package into another environment."""
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def test_the_wheel_contains_the_project_and_each_file_of_the_package_once(installed: Installed, tmp_path: Path) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    assert len(names) == len(set(names))
    for part in PARTS:
        assert (tmp_path / "syncline/project" / part).exists(), part
    package = TOP / "layers/syncline/syncline"
    files = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    own = {name.removeprefix("syncline/") for name in names if not name.startswith("syncline/project/")}
    assert {name for name in own if "dist-info" not in name} == {name for name in files if "__pycache__" not in name}
    assert not [name for name in names if "layers/syncline/syncline" in name or "__pycache__" in name]
    assert {name.split("/")[0] for name in names} == {"syncline", f"syncline-{__version__}.dist-info"}


def test_a_source_distribution_builds_the_same_wheel(installed: Installed, tmp_path: Path) -> None:
    with tarfile.open(build(copied_source(tmp_path / "checkout"), "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(installed.wheel) as other:
        content = [{each.filename: each.CRC for each in wheel.infolist()} for wheel in (one, other)]
    assert content[0] == content[1]


def test_files_of_an_earlier_build_are_not_in_the_wheel(tmp_path: Path) -> None:
    source = copied_source(tmp_path / "source")
    removed = source / "layers/syncline/syncline/removed.py"
    removed.touch()
    build(source, "wheel", tmp_path / "first")
    removed.unlink()
    with zipfile.ZipFile(build(source, "wheel", tmp_path / "second")) as archive:
        assert "syncline/removed.py" not in archive.namelist()
        assert "syncline/model.py" in archive.namelist()


def test_the_requirements_of_the_metadata_are_sufficient(installed: Installed) -> None:
    file = installed.python("-c", _IMPORT_ALL).strip()
    assert Path(file).is_relative_to(installed.environment)
    assert installed.run("--version") == f"syncline {__version__}\n"
    assert "Commands:" in installed.run("--help")


def test_commands_about_artifacts_find_the_shipped_example(installed: Installed) -> None:
    """The request contains the workflow of the example."""
    places = ("--registry", "127.0.0.1:1", "--gitlab-project", "a/b", "--repo", "a/b", "--gh-url", "http://127.0.0.1:1")
    output = installed.run("artifacts", "gh-list", *places, "--gh-token", "absent", status=2)
    assert output.startswith(
        "error UNREACHABLE: GET http://127.0.0.1:1/repos/a/b/actions/workflows/presto-build-images.yml"
    )


def test_up_outside_a_checkout(installed: Installed, tmp_path: Path) -> None:
    """Nothing is written to the working folder; everything is in the home."""
    home = tmp_path / "home of an engine"
    for name in _SHARED:
        share(name, home / "project")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--home", home)
    assert "no engine runs" in installed.run("status", *options, status=2)
    try:
        output = installed.run("up", "--port", port, *options)
        assert f"the engine is up at http://127.0.0.1:{port}; its state is in {home}" in output
        outputs = json.loads((home / "engine.json").read_text())["outputs"]
        assert outputs.keys() >= OUTPUTS
        with urllib.request.urlopen(f"{outputs['ConsoleUrl']}health", timeout=30) as answer:
            assert answer.status == 200
        example = home / "project/examples/files-mirror.yaml"
        applied = json.loads(installed.run("apply", example, "--dry-run", "--offline", "--json", *options))
        assert [each["change"] for each in applied["syncs"]] == ["added"]
        assert (
            json.loads(installed.run("status", "--json", *options))["engine"]
            == f"the engine at http://127.0.0.1:{port}"
        )
        again = installed.run("up", *options)
        assert "deploying" not in again
        assert output.splitlines()[-2:] == again.splitlines()[-2:]
    finally:
        assert json.loads(installed.run("down", "--json", *options))["stopped"] is True
    assert list(installed.folder.iterdir()) == []


def share(name: str, project: Path) -> None:
    project.mkdir(parents=True, exist_ok=True)
    (TOP / name).mkdir(exist_ok=True)
    (project / name).symlink_to(TOP / name)


def test_sam_builds_the_template_that_is_written(installed: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "to deploy"
    installed.run("template", folder)
    assert sorted(each.name for each in folder.iterdir()) == sorted({part.split("/")[0] for part in PARTS})
    assert same(folder / "layers/syncline/syncline", TOP / "layers/syncline/syncline")
    share(".build", folder)
    python = TOP / ".venv-engine" / "bin" / "python"
    (library,) = python.parent.parent.glob("lib/python3.*")
    environ = sam_settings(tmp_path / "sam") | {"SYNCLINE_PYTHON": str(python)}
    environ["SYNCLINE_LAYER_PYTHON"] = library.name.removeprefix("python")  # already installed by the engine's build
    environ["PATH"] = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    template = ("--template-file", folder / "template.yaml", "--region", "eu-central-1")
    assert "is a valid SAM Template" in installed.python(
        "-m", "samcli", "validate", "--lint", *template, environ=environ
    )
    built = tmp_path / "built"
    options = ("--build-dir", built, "--parameter-overrides", f"LambdaRuntime={library.name}", "--parallel")
    installed.python("-m", "samcli", "build", *template, *options, environ=environ)
    layers: dict[str, Any] = {name: sorted(each.name for each in built.glob(f"{name}/*")) for name in names_of(folder)}
    assert layers["SynclineLayer"] == ["python"]
    assert layers["DiscoverFunction"] == ["app.py"]
    assert all(layers.values()), layers
    assert same(built / "SynclineLayer/python/syncline", TOP / "layers/syncline/syncline")


def names_of(project: Path) -> list[str]:
    """Return the functions and layers of a template."""
    return re.findall(r"^  (\w+(?:Function|Layer)):$", (project / "template.yaml").read_text(), re.MULTILINE)


def same(one: Path, other: Path) -> bool:
    """Return True if two packages have the same content."""
    files = [{str(file.relative_to(each)) for file in each.rglob("*.py")} for each in (one, other)]
    return files[0] == files[1] and filecmp.cmpfiles(one, other, files[0], shallow=False)[1:] == ([], [])
