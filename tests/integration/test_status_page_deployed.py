"""The status page of the deployed console in a real browser: runs that it starts, shows, retries and cancels."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from selenium.webdriver.common.keys import Keys

from bench.workspace import Functions
from syncline.cli import local_engine as engine
from tests.rig.browser import PROGRAMS, Browser
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs

TOP: Final = Path(__file__).parents[2]
IMAGES: Final = 12


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    needs(*PROGRAMS)
    home = tmp_path_factory.mktemp("home")
    engine.up(home, TOP, port=0)
    yield Functions(home)
    engine.down(home)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    needs(*PROGRAMS)
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Return a browser that has seen nothing; after the test it must have met no error and no other host."""
    chromium.reset()
    yield chromium
    chromium.forget_complaints("htmx:sendError", "htmx:afterRequest")  # a poll that leaving the page has aborted
    chromium.check("127.0.0.1")


@pytest.fixture
def registries() -> Iterator[tuple[OciRegistry, OciRegistry]]:
    with OciRegistry() as source, OciRegistry() as target:
        yield source, target


class Gate:
    """Holds reads of blobs until they are let through, so that a run stays in progress."""

    def __init__(self, source: OciRegistry) -> None:
        self._permits = threading.Semaphore(0)
        source.before = self._before

    def let(self, count: int) -> None:
        """Let that many more reads through."""
        self._permits.release(count)

    def _before(self, method: str, target: str) -> None:
        if method == "GET" and "/blobs/" in target:
            self._permits.acquire(timeout=30)


def fill(source: OciRegistry, label: str) -> None:
    for number in range(IMAGES):
        source.store.add_image(f"team/app-{number:02}", label, f"{label} {number}".encode())


def apply(functions: Functions, name: str, source: OciRegistry, target: OciRegistry) -> None:
    ends = [{"registry": each.host, "plain_http": True} for each in (source, target)]
    functions.apply_all({name: {"kind": "images", "source": {**ends[0], "catalog": True}, "target": ends[1]}})


def open_sync(browser: Browser, functions: Functions, name: str) -> None:
    """Open the page of all syncs, and follow the link to the sync."""
    browser.open(functions.output("ConsoleUrl"))
    browser.find(f'#syncs tr[data-sync="{name}"] a').click()
    browser.wait_for("#facts")


def press(browser: Browser, action: str) -> None:
    """Press the button of an action by keyboard, and mark the document that says so."""
    browser.wait_for(f"#action-{action} button")
    browser.tab_to(f"#action-{action} button")
    browser.press(Keys.ENTER)
    browser.wait_for("#notice")
    browser.script("window.sameDocument = true")


def test_a_run_is_started_and_followed_without_a_reload(
    browser: Browser, functions: Functions, registries: tuple[OciRegistry, OciRegistry]
) -> None:
    source, target = registries
    fill(source, "1.0")
    gate = Gate(source)
    apply(functions, "followed", source, target)
    open_sync(browser, functions, "followed")
    press(browser, "run")
    browser.wait_for("#live .progress")
    gate.let(6)
    before = browser.find("#live").text
    browser.wait_until(lambda: browser.find("#live").text != before, "the figures did not change")
    gate.let(10 * IMAGES)
    browser.wait_for('#live .state[data-state="in-sync"]')
    assert browser.script("return window.sameDocument"), "the page was loaded again"
    assert len(target.store.tags()) == IMAGES


def test_what_failed_is_retried(
    browser: Browser, functions: Functions, registries: tuple[OciRegistry, OciRegistry]
) -> None:
    source, target = registries
    fill(source, "2.0")
    target.fault("PUT", "/manifests/", Fault(403), times=None)
    apply(functions, "retried", source, target)
    open_sync(browser, functions, "retried")
    press(browser, "run")
    browser.wait_for('#live #failures tr[data-code="FORBIDDEN"]')
    assert browser.script("return window.sameDocument"), "the page was loaded again"
    assert len(browser.all('#failures tr[data-code="FORBIDDEN"]')) == IMAGES
    target.heal()
    press(browser, "retry")
    browser.wait_for('#runs tr:first-child [data-state="done"]')
    browser.wait_for("#live #no-failures")
    assert len(target.store.tags()) == IMAGES


def test_a_run_is_cancelled(
    browser: Browser, functions: Functions, registries: tuple[OciRegistry, OciRegistry]
) -> None:
    source, target = registries
    fill(source, "3.0")
    gate = Gate(source)
    apply(functions, "cancelled", source, target)
    open_sync(browser, functions, "cancelled")
    press(browser, "run")
    browser.wait_for("#live .progress")
    browser.wait_for("#action-cancel button")
    press(browser, "cancel")
    gate.let(10 * IMAGES)
    browser.wait_until(lambda: "cancel" in browser.find("#live").text.lower(), "the run was not cancelled")
