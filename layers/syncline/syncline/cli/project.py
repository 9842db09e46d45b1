"""The project to deploy: the template and the files it refers to, from a checkout or the installed package.

A wheel contains it as ``syncline/project``, without the syncline package. This module imports only the standard library
and the errors, because setup.py uses it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from syncline.errors import SynclineError

INPUTS: Final = (
    "template.yaml",
    "samconfig.toml",
    "functions",
    "layers",
    "requirements/layer.txt",
    "requirements/kubernetes.txt",
)
"""The inputs of a deployment."""
PARTS: Final = (*INPUTS, "requirements/engine.txt", "examples", "events")
SETTINGS: Final = "samconfig.toml"
"""The part that users change: `sam deploy --guided` writes parameters to it."""
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_LAYER: Final = Path("layers", "syncline")
SHIPPED: Final = _PACKAGE / "project"
"""The project in an installed package; it does not exist in a checkout."""


def find(here: Path) -> Path:
    """Return the project at ``here`` or the nearest above it, else that of the package."""
    return next(filter(_is_project, (here, *here.parents)), None) or own_project()


def own_project() -> Path:
    """Return the project of this package: its checkout, or :data:`SHIPPED`."""
    checkout = _PACKAGE.parents[2]
    return checkout if _is_project(checkout) else SHIPPED


def _is_project(folder: Path) -> bool:
    return (folder / "template.yaml").is_file() and (folder / _LAYER).is_dir()


def home_folder(project: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the engine's default home: ``.syncline`` in the project, or for :data:`SHIPPED` the user's data folder."""
    if project != SHIPPED:
        return (project / ".syncline").absolute()
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG base directory specification ignores relative paths.
    folder = Path(data) if data.startswith("/") else Path(os.path.expanduser("~")) / ".local" / "share"  # noqa: PTH111
    if not folder.is_absolute():
        raise SynclineError("USAGE", "this user has no home folder; name a folder for the engine's state with --home")
    return folder / "syncline"


def writable(project: Path, home: Path) -> Path:
    """Return ``project``, or a writable copy in the engine's home if it is in an installed package."""
    if project != SHIPPED:
        return project
    copy = home / "project"
    write(project, copy)
    return copy


def write(project: Path, folder: Path, *, keep: str | None = None) -> None:
    """Write a complete project to ``folder``, replacing its parts and keeping other files.

    ``keep`` names a part that is not replaced if it exists.
    """
    copy_parts(project, folder, keep=keep)
    package = _PACKAGE if project == SHIPPED else project / _LAYER / "syncline"
    shutil.copytree(package, folder / _LAYER / "syncline", ignore=_left_out)


def copy_parts(project: Path, folder: Path, *, keep: str | None = None) -> None:
    """Copy the parts of a project without the syncline package."""
    for part in PARTS:
        source, target = project / part, folder / part
        if part == keep and target.exists():
            continue
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=_left_out)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def _left_out(folder: str, names: list[str]) -> set[str]:
    left_out = {name for name in names if name == "__pycache__" or name.endswith(".egg-info")}
    if Path(folder) == _PACKAGE:
        left_out.add(SHIPPED.name)
    if Path(folder).parts[-2:] == _LAYER.parts:
        left_out.add("syncline")
    return left_out
