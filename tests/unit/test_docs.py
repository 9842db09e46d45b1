"""Documentation: every relative link points to a file, and every page is in the index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in HEADING.findall(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_link_targets_exist(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in _anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    named = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert [str(page) for page in (ROOT / "docs").rglob("*.md") if page != index and page.resolve() not in named] == []


def test_the_files_of_the_architecture_exist() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    package = ROOT / "layers/syncline/syncline"
    named = {each for each in re.findall(r"`([a-z_/]+(?:\.py|\.yaml|/))`", page) if each != "syncs.yaml"}
    assert named
    assert [each for each in sorted(named) if not (package / each).exists() and not (ROOT / each).exists()] == []
