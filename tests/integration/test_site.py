"""The documentation site, built by MkDocs as `make docs` builds it, and the check of external links."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from tests.standins.programs import wants

TOP: Final = Path(__file__).parents[2]
PYTHON: Final = TOP / ".venv-docs" / "bin" / "python"
SOURCES: Final = ("docs", "mkdocs.yml", "scripts/site_hooks.py")
LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "object": "data"}
NOT_LOADED: Final = {"canonical", "next", "prev", "alternate"}
"""Values of ``rel`` of links that a browser does not follow by itself."""
IN_STYLES: Final = re.compile(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)")


class _Page(HTMLParser):
    """What a page loads, and how many list items, rows and blocks of code its article has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self.counts = Counter[str]()
        self._article = False
        self._row = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.classes.update(values.get("class", "").split())
        if tag in LOADED and LOADED[tag] in values and values.get("rel") not in NOT_LOADED:
            self.loaded.append(values[LOADED[tag]])
        self._article |= tag == "article"
        if self._article and tag in ("li", "pre"):
            self.counts[tag] += 1
        if tag == "tr":
            self._row = ""

    def handle_endtag(self, tag: str) -> None:
        self._article &= tag != "article"
        if self._article and tag == "tr" and self._row.strip():  # an empty table has an empty row
            self.counts["tr"] += 1

    def handle_data(self, data: str) -> None:
        self._row += data


def _counts(markdown: str) -> Counter[str]:
    """Return the list items, rows and blocks of code that GitHub shows for a page."""
    text, blocks = re.subn(r"^ *```.*?^ *```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    items = re.findall(r"^\s*(?:[-*]|\d+\.) ", text, re.MULTILINE)
    rows = re.findall(r"^\|(?![-| :]+\|$)", text, re.MULTILINE)
    return Counter({"li": len(items), "tr": len(rows), "pre": blocks})


def _build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    command = [str(PYTHON), "-m", "mkdocs", "build", "--site-dir", str(site)]
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wants(str(PYTHON) if PYTHON.exists() else None, "`make docs` creates the environment of the site", ci_has_it=True)
    folder = tmp_path_factory.mktemp("site")
    done = _build(TOP, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _pages(site: Path) -> dict[str, _Page]:
    return {str(path.relative_to(site)): _Page(path.read_text()) for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = _pages(site)
    assert all(page.loaded for page in pages.values())
    assert [
        (name, each) for name, page in pages.items() for each in page.loaded if re.match(r"([a-z]+:)?//", each)
    ] == []
    styles = "".join(path.read_text() for path in [*site.rglob("*.css"), *site.rglob("*.html")])
    assert IN_STYLES.findall(styles) == []
    # The theme's script would load the renderer of diagrams from another host, on a page that has one.
    assert not any("mermaid" in page.classes for page in pages.values())


def test_every_list_table_and_block_of_a_page_is_shown(site: Path) -> None:
    """Python-Markdown reads some lists and blocks, such as a list without an empty line before it, as plain text."""
    for source in sorted((TOP / "docs").rglob("*.md")):
        page = _Page((site / source.relative_to(TOP / "docs").with_suffix(".html")).read_text())
        assert page.counts == _counts(source.read_text()), source


def test_the_search_knows_every_page(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert found >= {str(path.relative_to(TOP / "docs").with_suffix(".html")) for path in (TOP / "docs").rglob("*.md")}
    assert any("TAG_DIFFERS" in entry["text"] for entry in index["docs"])


def test_files_of_the_repository_that_pages_link_to_are_in_the_site(site: Path) -> None:
    for path in (TOP / "examples").iterdir():
        assert path.name in (site / "repository/examples/index.html").read_text()
    assert (site / "repository/deploy/helm/values.yaml").read_bytes() == (TOP / "deploy/helm/values.yaml").read_bytes()


@pytest.mark.parametrize(
    ("page", "text", "fault"),
    [
        ("index.md", "[x](how-to/nothing.md)", "how-to/nothing.md"),
        ("index.md", "[x](how-to/harden.md#nothing)", "#nothing"),
        ("index.md", "[x](../examples/nothing.yaml)", "examples/nothing.yaml"),
        ("how-to/lost.md", "# A page that nothing leads to", "how-to/lost.md"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_broken_link_an_absent_anchor_and_a_lost_page_fail_the_build(
    tmp_path: Path, page: str, text: str, fault: str
) -> None:
    for name in SOURCES:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (TOP / name).is_dir() else shutil.copy)(TOP / name, target)
    for name in ("examples", "deploy", "layers"):
        (tmp_path / name).symlink_to(TOP / name)
    with (tmp_path / "docs" / page).open("a") as file:
        file.write(f"\n{text}\n")
    done = _build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert fault in done.stdout + done.stderr


class _Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names; ``/0`` closes the connection without an answer."""

    def do_GET(self) -> None:
        status = int(self.path.strip("/"))
        if status:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def _links(*files: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(TOP / "scripts" / "links"), *map(str, files)]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


def test_dead_links_are_printed_with_their_places(server: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and so nobody else's, but not listening
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        page = tmp_path / "page.md"
        page.write_text(
            f"[a]({server}/200) and [b]({server}/404#part)\n[c]({server}/403) [d]({server}/0) [e]({refused})\n"
            f"`{server}/410` is not a link\n"
        )
        code, lines = _links(page)
    assert code == 1
    assert lines[0] == f"dead: {server}/404: HTTP 404, in {page}:1"
    assert lines[1] == f"unclear: {server}/403: HTTP 403, in {page}:2"
    assert [line.split(": ")[:2] for line in lines[2:4]] == [["dead", f"{server}/0"], ["dead", refused]]
    assert lines[4:] == ["5 external links, 3 dead"]


def test_links_of_docstrings_are_requested_once(server: str, tmp_path: Path) -> None:
    code = tmp_path / "client.py"
    code.write_text(f'"""Speak a protocol:\n\n    {server}/200#section and\n{server}/200.\n"""\nURL = "{server}/404"\n')
    assert _links(code) == (0, ["1 external links, 0 dead"])
