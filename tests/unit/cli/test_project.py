"""The project that a command uses (a checkout, else the one in the package), and copies of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from syncline.cli import commands_template, project
from syncline.cli.main import app
from syncline.cli.project import PARTS
from syncline.errors import SynclineError
from tests.unit.cli.cli_stack import ROOT


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package as from a wheel; return its project, which does not contain the package itself."""
    package = tmp_path / "lib" / "python3" / "site-packages" / "syncline"
    for name in ("__init__.py", "cli/project.py", "__pycache__/__init__.pyc", "cli/__pycache__/project.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    monkeypatch.setattr(project, "_PACKAGE", package)
    monkeypatch.setattr(project, "SHIPPED", package / "project")
    project.copy_parts(ROOT, package / "project")
    return package / "project"


def make_checkout(folder: Path) -> Path:
    (folder / "layers" / "syncline").mkdir(parents=True)
    (folder / "template.yaml").touch()
    return folder


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_checkout_around_the_folder_is_preferred(shipped: Path, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    below = checkout / "a" / "b"
    below.mkdir(parents=True)
    assert project.find(below) == project.find(checkout) == checkout
    assert project.find(tmp_path) == shipped
    (tmp_path / "template.yaml").touch()  # of another project
    assert project.find(tmp_path) == shipped


def test_a_package_in_a_checkout_uses_the_checkout(tmp_path: Path) -> None:
    assert project.find(tmp_path) == project.own_project() == ROOT
    assert not project.SHIPPED.exists()


def test_the_home_of_the_engine(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.home_folder(tmp_path, {}) == tmp_path / ".syncline"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project.home_folder(shipped, {}) == tmp_path / ".local/share/syncline"
    assert project.home_folder(shipped, {"XDG_DATA_HOME": "/data"}) == Path("/data/syncline")
    assert project.home_folder(shipped, {"XDG_DATA_HOME": "data"}) == tmp_path / ".local/share/syncline"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(SynclineError, match="no home folder; name a folder"):
        project.home_folder(shipped, {})


def test_a_copy_in_the_home_has_the_files_of_the_installed_project(shipped: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    copy = project.writable(shipped, home)
    assert copy == home / "project"
    assert {name.split("/")[0] for name in files(copy)} == {part.split("/")[0] for part in PARTS}
    package = copy / "layers/syncline/syncline"
    assert files(package) == {"__init__.py", "cli/project.py"}
    assert files(copy / "functions") == {f"{each.name}/app.py" for each in (ROOT / "functions").iterdir()}


def test_the_next_version_replaces_the_copy_and_keeps_its_environment(shipped: Path, tmp_path: Path) -> None:
    copy = project.writable(shipped, tmp_path)
    for name in ("layers/syncline/syncline/removed.py", "functions/removed/app.py", ".venv-engine/bin/python"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    (copy / "template.yaml").write_text("older")
    (shipped.parent / "new.py").touch()
    assert project.writable(shipped, tmp_path) == copy
    assert files(copy / "layers/syncline/syncline") == {"__init__.py", "cli/project.py", "new.py"}
    assert not (copy / "functions/removed").exists()
    assert (copy / "template.yaml").read_text() == (ROOT / "template.yaml").read_text()
    assert (copy / ".venv-engine/bin/python").exists()


def test_a_checkout_is_used_as_it_is(tmp_path: Path) -> None:
    assert project.writable(ROOT, tmp_path) == ROOT
    assert list(tmp_path.iterdir()) == []


# -- syncline template -------------------------------------------------------------------------------------------------


def template(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["template", *map(str, arguments)])


def test_template_writes_a_project_that_can_be_built(shipped: Path, tmp_path: Path) -> None:
    """The package's own project is written, not a checkout around the current folder."""
    del shipped
    folder = tmp_path / "new" / "my folder"
    result = template(folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"Syncline 0.1.0 is in {folder}",
        f"→ cd '{folder}' && sam build && sam deploy --guided  to deploy it to AWS",
    ]
    assert files(folder) >= {*(part for part in PARTS if "." in part), "layers/git/gather", "functions/probe/app.py"}
    assert files(folder / "layers/syncline/syncline") == {"__init__.py", "cli/project.py"}


def test_template_accepts_only_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert json.loads(template(folder, "--json").stdout) == {"folder": str(folder), "version": "0.1.0"}
    before = files(folder)
    (folder / "template.yaml").write_text("changed")
    result = template(folder)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error USAGE: {folder} is not empty; name a new folder, or replace an earlier")
    assert (folder / "template.yaml").read_text() == "changed"
    assert files(folder) == before


def test_overwrite_replaces_all_but_the_settings(shipped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert template(folder).exit_code == 0
    (folder / "template.yaml").write_text("changed")
    (folder / "samconfig.toml").write_text("mine")
    (folder / "notes").write_text("mine")
    (folder / "functions/discover/removed.py").touch()
    (shipped / "functions/discover/added.py").touch()
    assert template(folder, "--overwrite").exit_code == 0
    assert (folder / "template.yaml").read_text() == (ROOT / "template.yaml").read_text()
    assert (folder / "samconfig.toml").read_text() == (folder / "notes").read_text() == "mine"
    assert files(folder / "functions/discover") == {"app.py", "added.py"}


def test_the_checkout_itself_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    (tmp_path / "link").symlink_to(checkout)
    monkeypatch.setattr(commands_template, "own_project", lambda: checkout)
    result = template(tmp_path / "link", "--overwrite")
    assert result.exit_code == 2
    assert "is the checkout that this command runs from; name another folder" in result.stderr
    assert (checkout / "template.yaml").exists()


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder, why in ((file, "Not a directory"), (file / "below", "Not a directory")):
        result = template(folder)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error USAGE: cannot write to {folder}: {why}\n→ ")


def test_a_copy_of_a_checkout_has_no_build_files(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    project.write(ROOT, checkout)
    before = files(checkout)
    for build_file in ("layers/syncline/syncline.egg-info/PKG-INFO", "functions/probe/__pycache__/app.pyc"):
        (checkout / build_file).parent.mkdir()
        (checkout / build_file).touch()
    project.write(checkout, tmp_path / "copy")
    assert files(tmp_path / "copy") == before
