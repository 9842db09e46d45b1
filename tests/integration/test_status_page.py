"""The status page in a real browser, over the state of many syncs: what it shows, and who can use it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.rig import console_state as seeded
from tests.rig.browser import PROGRAMS, Browser
from tests.rig.console_server import ConsoleServer
from tests.rig.console_state import Seed
from tests.rig.quick_table import QuickTable
from tests.standins.programs import needs

TOKEN: Final = "the-token-of-the-console"
_LARGEST_PAGE: Final = 200 * 1024


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    needs(*PROGRAMS)
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def seed() -> Seed:
    """Return the state of 50 syncs in a table."""
    needs(*PROGRAMS)
    seed = Seed(cast("Any", QuickTable("console")), time.time())
    seed.fill()
    return seed


@pytest.fixture
def console(seed: Seed) -> Iterator[ConsoleServer]:
    """Serve the console without a token."""
    with ConsoleServer(seed) as server:
        yield server


@pytest.fixture
def locked(seed: Seed) -> Iterator[ConsoleServer]:
    """Serve the console with a token, as on AWS: at the root of its host."""
    with ConsoleServer(seed, TOKEN) as server:
        yield server


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Return a browser that has seen nothing; after the test it must have met no error and no other host."""
    chromium.reset()
    yield chromium
    chromium.forget_complaints("htmx:sendError", "htmx:afterRequest")  # a poll that leaving the page has aborted
    chromium.check("127.0.0.1")


def pages(seed: Seed) -> dict[str, str]:
    """Return the addresses of all kinds of pages."""
    failed = seed.state.runs(seeded.FAILING, 1)[0].id
    odd = seed.state.runs(seeded.ODD, 1)[0].id
    return {
        "all syncs": "",
        "a sync that fails": f"syncs/{seeded.FAILING}",
        "a sync with odd names": f"syncs/{seeded.ODD}",
        "a sync that runs": f"syncs/{seeded.RUNNING}",
        "a sync that never ran": f"syncs/{seeded.NEVER}",
        "a sync without runs": f"syncs/{seeded.TOKENS}",
        "a large run": f"runs/{seeded.LARGE}/{seed.large_run}",
        "failed items": f"runs/{seeded.FAILING}/{failed}?outcome=failed",
        "odd items": f"runs/{seeded.ODD}/{odd}",
        "no such sync": "syncs/none",
        "login": "login",
    }


def row(browser: Browser, name: str) -> Any:
    return browser.find(f'#syncs tr[data-sync="{name}"]')


def state(browser: Browser, name: str) -> str | None:
    return cast("str | None", row(browser, name).find_element(By.CSS_SELECTOR, ".state").get_attribute("data-state"))


def test_the_first_view_shows_every_sync_and_its_state(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.open(console.url)
    assert len(browser.all("#syncs tr[data-sync]")) == seeded.SYNCS
    assert {each: state(browser, each) for each in (seeded.LARGE, seeded.FAILING, seeded.CONFLICT, seeded.NEVER)} == {
        seeded.LARGE: "in-sync",
        seeded.FAILING: "not-in-sync",
        seeded.CONFLICT: "not-in-sync",
        seeded.NEVER: "unknown",
    }
    for name, flag in ((seeded.STALE, "stale"), (seeded.PAUSED, "paused"), (seeded.DISABLED, "disabled")):
        assert row(browser, name).find_elements(By.CSS_SELECTOR, f".flag.{flag}"), f"{name} is not marked as {flag}"
    assert row(browser, seeded.RUNNING).find_elements(By.CSS_SELECTOR, ".progress")
    assert browser.transferred() <= _LARGEST_PAGE
    assert len(browser.all("h1")) == 1
    shown = {each.get_attribute("data-sync") for each in browser.all("#syncs tr[data-sync]")}
    assert shown == set(seed.state.sync_names())


def test_a_run_in_progress_advances_without_a_reload(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.open(f"{console.url}syncs/{seeded.RUNNING}")
    browser.script("window.sameDocument = true")
    before = browser.find("#live").text
    seed.advance(3)
    browser.wait_until(lambda: browser.find("#live").text != before, "the figures of the run did not change")
    assert browser.script("return window.sameDocument"), "the page was loaded again"


def test_one_of_100_000_items_is_found(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.open(f"{console.url}runs/{seeded.LARGE}/{seed.large_run}")
    assert "100,000" in browser.find("#found").text
    browser.find("#q").send_keys(seeded.NEEDLE, Keys.ENTER)
    browser.wait_until(lambda: len(browser.all("#items tr[data-outcome]")) == 1, "the item was not found")
    found = browser.find("#items tr[data-outcome]")
    expected = seeded.digest(f"{seeded.LARGE}/77777")
    assert seeded.NEEDLE in found.text
    assert [found.find_element(By.CSS_SELECTOR, each).text for each in (".source", ".target")] == [expected, expected]


def test_items_are_paged_and_selected_by_outcome(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.open(f"{console.url}runs/{seeded.LARGE}/{seed.large_run}")
    first = [each.text for each in browser.all("#items tr[data-outcome]")]
    assert len(first) == 100
    browser.find("#next-page").click()
    browser.wait_until(lambda: browser.all("#previous-page"), "no second page")
    second = [each.text for each in browser.all("#items tr[data-outcome]")]
    assert not set(first) & set(second)
    browser.open(f"{console.url}{pages(seed)['failed items']}")
    rows = browser.all("#items tr[data-outcome]")
    assert {each.get_attribute("data-outcome") for each in rows} == {"failed"}
    assert "120" in browser.find("#found").text


def test_failures_state_reason_and_advice(browser: Browser, console: ConsoleServer) -> None:
    browser.open(f"{console.url}syncs/{seeded.FAILING}")
    failures = browser.all('#failures tr[data-code="UNAUTHORIZED"]')
    assert failures
    assert "rejects the credentials" in failures[0].find_element(By.CSS_SELECTOR, ".reason").text
    assert failures[0].find_element(By.CSS_SELECTOR, ".advice").text


def test_a_wrong_token_opens_nothing(browser: Browser, locked: ConsoleServer) -> None:
    browser.open(locked.url)
    assert not browser.all("#syncs")
    browser.find("#token").send_keys("a-wrong-token", Keys.ENTER)
    browser.wait_until(lambda: browser.all("#login-error"), "the wrong token was not refused")
    assert locked.replies[-1].status in (200, 403)
    browser.open(f"{locked.url}syncs/{seeded.LARGE}")
    assert not browser.all("#runs")
    # Chromium reports the status of a page as an error of the network.
    assert all("403" in each or "401" in each for each in browser.complaints()), browser.complaints()
    browser.forget_complaints()
    browser.open(f"{locked.url}login")
    browser.find("#token").send_keys(TOKEN, Keys.ENTER)
    browser.wait_until(lambda: browser.all("#syncs"), "the right token was refused")
    cookies = browser.driver.get_cookies()
    assert cookies
    assert all(each["httpOnly"] and each.get("sameSite") in ("Strict", "Lax") for each in cookies)
    assert TOKEN not in str(cookies)
    assert browser.script("return document.cookie") == ""


def test_a_token_in_the_address_is_refused(browser: Browser, locked: ConsoleServer) -> None:
    browser.open(f"{locked.url}?token={TOKEN}")
    assert not browser.all("#syncs")
    assert not browser.driver.get_cookies()
    browser.forget_complaints()


def test_the_keyboard_alone_is_enough(browser: Browser, locked: ConsoleServer) -> None:
    browser.open(locked.url)
    browser.tab_to("#token")
    browser.press(TOKEN, Keys.ENTER)
    browser.wait_until(lambda: browser.all("#syncs"), "no login by keyboard")
    browser.press(Keys.TAB)
    assert browser.focused.get_attribute("class") == "skip"
    browser.press(Keys.ENTER)
    browser.tab_to(f'#syncs tr[data-sync="{seeded.FAILING}"] a')
    assert browser.focus_is_visible()
    browser.press(Keys.ENTER)
    browser.wait_for("#runs")
    browser.tab_to("#runs tr[data-run] a")
    browser.press(Keys.ENTER)
    browser.wait_for("#q")
    browser.tab_to("#q")
    browser.press("1.119", Keys.ENTER)
    browser.wait_until(lambda: len(browser.all("#items tr[data-outcome]")) == 1, "the item was not found")


@pytest.mark.parametrize(("scheme", "rules"), [("light", ()), ("dark", ("color-contrast",))])
def test_axe_has_no_serious_findings(
    browser: Browser, console: ConsoleServer, seed: Seed, scheme: str, rules: Sequence[str]
) -> None:
    browser.set_scheme(scheme)  # only colours depend on it
    found = {}
    for name, path in pages(seed).items():
        browser.open(console.url + path)
        found[name] = browser.accessibility(*rules)
    browser.forget_complaints("404")
    assert not any(found.values()), {name: findings for name, findings in found.items() if findings}


def test_a_phone_does_not_scroll_sideways(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.set_size(375, 700)
    wide = {}
    for name, path in pages(seed).items():
        browser.open(console.url + path)
        wide[name] = browser.overflow()
    browser.forget_complaints("404")
    assert not any(wide.values()), {name: elements for name, elements in wide.items() if elements}


def test_the_page_is_dark_where_the_person_wants_it(browser: Browser, console: ConsoleServer) -> None:
    lightness = {}
    for scheme in ("light", "dark"):
        browser.set_scheme(scheme)
        browser.open(console.url)
        code = "return getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
        lightness[scheme] = sum(browser.script(code))
    assert lightness["dark"] < 200, lightness
    assert lightness["light"] > 500, lightness


def test_everything_is_readable_without_scripts(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    browser.disable_scripts()
    browser.open(console.url)
    assert len(browser.all("#syncs tr[data-sync]")) == seeded.SYNCS
    assert browser.find("#reload").is_displayed()
    browser.find(f'#syncs tr[data-sync="{seeded.LARGE}"] a').click()
    browser.find(f'#runs tr[data-run="{seed.large_run}"] a').click()
    browser.find("#q").send_keys(seeded.NEEDLE)
    browser.find("#search button").click()
    assert len(browser.all("#items tr[data-outcome]")) == 1


def test_names_from_outside_do_no_harm(browser: Browser, console: ConsoleServer, seed: Seed) -> None:
    for path in ("", pages(seed)["a sync with odd names"], pages(seed)["odd items"]):
        browser.open(console.url + path)
        assert "attacked" not in browser.driver.title
        assert not browser.all("img")
        assert browser.overflow() == []
        assert not {"\x07", "\x1b", "\x00", "\u202e", "\u2028"} & set(browser.text)
    assert "<img src=x" in browser.text, "the name is shown as it is"
    assert "l" * 100 in browser.text


def test_an_unreachable_table_is_stated(
    browser: Browser, console: ConsoleServer, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.open(f"{console.url}syncs/{seeded.RUNNING}")

    def refuse(*_: Any, **__: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="https://dynamodb.example")

    monkeypatch.setattr(seed.table, "_make_api_call", refuse)
    browser.wait_for("#stale-banner")
    assert "not reachable since" in browser.find("#stale-banner").text
    assert browser.all("#runs tr[data-run]"), "what was known is no longer shown"
    browser.forget_complaints("503")


def test_a_console_that_does_not_answer_is_stated(browser: Browser, seed: Seed) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(ConsoleServer(seed))
        browser.open(f"{server.url}syncs/{seeded.RUNNING}")
        stack.close()
        browser.wait_until(lambda: browser.find("#offline-banner").is_displayed(), "nothing was stated")
    browser.forget_complaints("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
