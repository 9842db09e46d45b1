"""Hooks of the documentation site (mkdocs.yml): copy the files of the repository that pages link to into the site.

A page may link to a file outside of ``docs``, such as ``../../examples/files-mirror.yaml``. The site has it below
``repository``, where the link points then. A link to a folder leads to a page that shows the folder's files.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File  # type: ignore[import-not-found]  # only .venv-docs has it

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = "repository"
LINK: Final = re.compile(r"(\]\()((?:\.\./)+[^)\s#]*)")
"""A relative link that leaves its folder, without its anchor."""
LANGUAGES: Final = {".yaml": "yaml", ".json": "json"}


def on_files(files: Any, *, config: Any) -> Any:
    """Add the files and folders that pages link to."""
    linked = {
        target
        for page in files.documentation_pages()
        for match in LINK.finditer(page.content_string)
        if (target := _outside(page.src_uri, match[2])) is not None
    }
    for target in sorted(linked):
        path = ROOT / target
        if path.is_dir():
            files.append(File.generated(config, f"{FOLDER}/{target}/index.md", content=_folder_page(path)))
        elif path.is_file():
            files.append(File.generated(config, f"{FOLDER}/{target}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links that leave ``docs`` to the copies. A link to a missing file is left alone, which fails the build."""
    uri = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        target = _outside(uri, match[2])
        if target is None or not (ROOT / target).exists():
            return match[0]
        inside = f"{FOLDER}/{target}/index.md" if (ROOT / target).is_dir() else f"{FOLDER}/{target}"
        return match[1] + posixpath.relpath(inside, posixpath.dirname(uri))

    return LINK.sub(moved, markdown)


def _outside(uri: str, link: str) -> str | None:
    """Return the path in the repository of a link that leaves ``docs``, None for other links."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link))
    return None if path.startswith(("docs/", os.pardir)) else path


def _folder_page(folder: Path) -> str:
    """Return a page with the files of a folder."""
    shown = [
        f"## {file.name}\n\n```{LANGUAGES[file.suffix]}\n{file.read_text()}```\n"
        for file in sorted(folder.iterdir())
        if file.suffix in LANGUAGES
    ]
    return "\n".join([f"# {folder.name.capitalize()}\n", *shown])
