"""The process of the engine on this machine: ministack, apart from whoever started it.

:mod:`syncline.cli.engine` runs this file with the engine's own Python, which has nothing of Syncline's:
``engine_process.py HOME``. Its environment holds ministack's settings. In ``HOME`` it keeps ``pid`` and ``unsaved``,
a mark that is there from the start until the state has been saved at a clean stop.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path


def main(home: Path) -> None:
    if os.fork():
        os._exit(0)  # the starter waits for this process alone; the engine goes on by itself
    os.setsid()
    (home / "pid").write_text(str(os.getpid()))
    unsaved = home / "unsaved"
    unsaved.touch()
    sys.argv = ["ministack"]
    runpy.run_module("ministack", run_name="__main__", alter_sys=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # functions still at work: their messages come back at the next start
    began = unsaved.stat().st_mtime
    if all(file.stat().st_mtime >= began for file in (home / "state").glob("*.json")):
        unsaved.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
