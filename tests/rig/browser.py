"""Headless Chromium, driven by Selenium through chromium-driver, both as Debian packages them.

    with Browser() as browser:
        browser.open(console.url)
        browser.wait_for("#syncs")
        browser.check("127.0.0.1")

A browser has one window. What a test sets (dark, a phone's width, no scripts, cookies) ends with :meth:`reset`, so many
tests share one process. Nothing is downloaded: Selenium gets the paths of both programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.standins.programs import program

PROGRAMS: Final = ("chromium", "chromedriver")
AXE: Final = Path(__file__).parents[1] / "fixtures" / "axe" / "axe.min.js"
_ARGUMENTS: Final = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # /dev/shm is small in a container
    "--disable-gpu",
    "--no-default-browser-check",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
)
_WAIT_SECONDS: Final = 60.0
_PAGE_SECONDS: Final = 60
_SIZE: Final = (1280, 900)
_MOST_TABS: Final = 300
_GRAVE: Final = ("serious", "critical")
_T = TypeVar("_T")


class Browser:
    """A browser with one window."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._messages: list[dict[str, Any]] = []
        self._console: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        home = self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="syncline-browser-", ignore_cleanup_errors=True)
        )
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for argument in (*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        environment = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TZ": "UTC"}
        service = Service(program("chromedriver"), env=environment)
        self.driver = webdriver.Chrome(options=options, service=service)
        self._stack.callback(self.driver.quit)
        self.driver.set_page_load_timeout(_PAGE_SECONDS)
        self.driver.set_script_timeout(_PAGE_SECONDS)
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- settings ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Close the page and forget cookies, stored values, settings and logs."""
        self.driver.get("about:blank")
        for origin in {_origin(url) for url in self.requested()}:
            self.cdp("Storage.clearDataForOrigin", origin=origin, storageTypes="all")
        self.cdp("Network.clearBrowserCookies")
        self.cdp("Network.clearBrowserCache")
        self.cdp("Emulation.setScriptExecutionDisabled", value=False)
        self.set_scheme("light")
        self.set_size(*_SIZE)
        self._log("performance")
        self._log("browser")
        self._messages.clear()
        self._console.clear()

    def set_scheme(self, scheme: str) -> None:
        """Prefer the colour scheme ``light`` or ``dark``."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def set_size(self, width: int, height: int) -> None:
        """Give the page this size in CSS pixels; one below 500 is that of a phone."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def disable_scripts(self) -> None:
        """Let pages run no scripts."""
        self.cdp("Emulation.setScriptExecutionDisabled", value=True)

    # -- actions -------------------------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Load a page completely."""
        self.driver.get(url)

    def cdp(self, command: str, **arguments: Any) -> Any:
        """Run a command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def script(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript in the page and return its value."""
        return self.driver.execute_script(code, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys one after another, where the focus is."""
        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element of a selector has the focus."""
        for _ in range(_MOST_TABS):
            self.press(Keys.TAB)
            if self.script("return document.activeElement.matches(arguments[0])", selector):
                return
        raise AssertionError(f"{_MOST_TABS} tabs do not lead to {selector}")

    def focus_is_visible(self) -> bool:
        """Return True if the element with the focus has an outline or a shadow."""
        code = """
            const style = getComputedStyle(document.activeElement);
            return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
        """
        return bool(self.script(code))

    def find(self, selector: str) -> WebElement:
        """Return the first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return self.find("body").text

    @property
    def focused(self) -> WebElement:
        """The element that has the focus."""
        return self.driver.switch_to.active_element

    def wait_until(self, condition: Callable[[], _T], what: str) -> _T:
        """Return the first true value of a condition; fail with ``what`` and the page's text if none comes."""
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
                if value := condition():
                    return value
            if time.monotonic() > end:
                raise AssertionError(
                    f"{what}: not within {_WAIT_SECONDS:.0f} s; {self.driver.current_url}\n{self.text}"
                )
            time.sleep(0.02)

    def wait_for(self, selector: str) -> None:
        """Wait until the page has an element of a CSS selector."""
        self.wait_until(lambda: self.all(selector), f"no element {selector}")

    # -- what happened -------------------------------------------------------------------------------------------------

    def requested(self) -> list[str]:
        """Return the addresses of all requests since the reset."""
        sent = [each["params"]["request"]["url"] for each in self._events("Network.requestWillBeSent")]
        return [url for url in sent if not url.startswith(("data:", "blob:", "about:"))]

    def transferred(self) -> int:
        """Return the bytes of all responses since the reset, as they came, with their heads."""
        return sum(int(each["params"]["encodedDataLength"]) for each in self._events("Network.loadingFinished"))

    def complaints(self) -> list[str]:
        """Return what the browser reported since the reset: errors of scripts, violations of the policy, failed requests."""
        self._console += self._log("browser")
        return [each["message"] for each in self._console if each["level"] in ("SEVERE", "WARNING")]

    def forget_complaints(self, *texts: str) -> None:
        """Forget what was reported so far with one of these texts in it, or everything."""
        self.complaints()
        self._console = [each for each in self._console if texts and not any(text in each["message"] for text in texts)]

    def check(self, *hosts: str) -> None:
        """Check that every request went to one of these hosts, at any port, and that the browser reported nothing."""
        elsewhere = [url for url in self.requested() if urlsplit(url).hostname not in hosts]
        assert not elsewhere, f"requests to other hosts: {elsewhere}"
        assert not self.complaints(), f"the browser reported: {self.complaints()}"

    def accessibility(self, *rules: str) -> list[str]:
        """Return the serious and critical findings of axe-core about the page, by these rules or by all."""
        self.script(AXE.read_text())
        run = """
            const [rules, done] = arguments;
            const options = rules.length ? {resultTypes: ['violations'], runOnly: rules} : {resultTypes: ['violations']};
            axe.run(document, options).then(done, error => done({error: String(error)}));
        """
        found = self.driver.execute_async_script(run, list(rules))
        assert "error" not in found, found["error"]
        return [_finding(each) for each in found["violations"] if each["impact"] in _GRAVE]

    def overflow(self) -> list[str]:
        """Return the elements that scroll sideways, and those that make the page do so; none if all fits its width."""
        code = """
            const root = document.documentElement, limit = root.clientWidth, all = [...document.body.querySelectorAll('*')];
            const name = each => each.outerHTML.slice(0, 120);
            const found = all.filter(each => each.scrollWidth > each.clientWidth + 1
                && ['auto', 'scroll'].includes(getComputedStyle(each).overflowX)).map(each => `scrolls: ${name(each)}`);
            if (root.scrollWidth > limit) {
                found.push(`${root.scrollWidth} of ${limit} pixels`);
                const wide = all.filter(each => each.getBoundingClientRect().right > limit + 1);
                found.push(...wide.slice(0, 5).map(each => `wide: ${name(each)}`));
            }
            return found;
        """
        return list(self.script(code))

    def screenshot(self, file: Path, *, full: bool = False) -> None:
        """Write a picture of the window, or of the ``full`` page."""
        if full:
            height = int(self.script("return document.documentElement.scrollHeight"))
            width = int(self.script("return window.innerWidth"))
            self.set_size(width, min(height, 4000))
        file.write_bytes(self.driver.get_screenshot_as_png())

    def first_paint(self) -> float:
        """Return the milliseconds from the navigation to the first paint of content."""
        code = "const [e] = performance.getEntriesByName('first-contentful-paint'); return e ? e.startTime : null"
        return float(self.wait_until(lambda: self.script(code), "nothing was painted"))

    def _log(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a log since the last call."""
        return cast("list[dict[str, Any]]", self.driver.get_log(name))  # type: ignore[no-untyped-call]

    def _events(self, method: str) -> list[dict[str, Any]]:
        for entry in self._log("performance"):
            self._messages.append(json.loads(entry["message"])["message"])
        return [each for each in self._messages if each["method"] == method]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _finding(violation: Mapping[str, Any]) -> str:
    nodes = "; ".join(f"{node['target']}: {node['html'][:160]} {_advice(node)}" for node in violation["nodes"][:3])
    return f"{violation['impact']}: {violation['id']}: {violation['help']} ({len(violation['nodes'])}): {nodes}"


def _advice(node: Mapping[str, Any]) -> str:
    return " ".join(str(node.get("failureSummary", "")).split())
