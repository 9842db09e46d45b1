"""Pictures of the status page for the documentation: ``python -m tests.rig.screenshots``.

They show the state of :mod:`tests.rig.console_state`, and are written to ``docs/images``. Tests take none.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final, cast

from tests.rig import console_state
from tests.rig.browser import Browser
from tests.rig.console_server import ConsoleServer
from tests.rig.console_state import Seed
from tests.rig.quick_table import QuickTable

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
_PHONE: Final = (375, 812)
_DESK: Final = (1200, 800)


def main() -> None:
    seed = Seed(cast("Any", QuickTable("console")), time.time())
    seed.fill()
    failed = seed.state.runs(console_state.FAILING, 1)[0].id
    pictures = {
        "status-page": ("", _DESK, "light"),
        "status-page-dark": ("", _DESK, "dark"),
        "status-page-phone": ("", _PHONE, "light"),
        "status-page-sync": (f"syncs/{console_state.FAILING}", _DESK, "light"),
        "status-page-run": (f"runs/{console_state.FAILING}/{failed}?outcome=failed", _DESK, "light"),
    }
    IMAGES.mkdir(exist_ok=True)
    with ConsoleServer(seed) as server, Browser() as browser:
        for name, (path, size, scheme) in pictures.items():
            browser.reset()
            browser.set_size(*size)
            browser.set_scheme(scheme)
            browser.open(server.url + path)
            browser.screenshot(IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
