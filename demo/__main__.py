"""`make run`, `make push` and `make down`: ``python -m demo run|push|down``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from demo import scenes
from demo.settings import Settings
from syncline.cli.deploy import local_environment
from syncline.cli.error_output import print_error
from syncline.errors import SynclineError

INTERRUPTED: Final = 130
NOT_DONE: Final = 2

_SCENES: Final = {"run": scenes.run, "push": scenes.push, "down": scenes.down}


def main(arguments: list[str]) -> int:
    """Play a scene; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("scene", choices=_SCENES)
    play = _SCENES[parser.parse_args(arguments).scene]
    _stay_on_this_machine()
    try:
        return play(Settings.load())
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: `make run` continues from here, `make down` stops the sample\n")
        return INTERRUPTED
    except SynclineError as error:
        print_error(error, as_json=False)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    return NOT_DONE


def _stay_on_this_machine() -> None:
    """Remove settings for AWS, a stack, or a proxy from the environment."""
    kept = local_environment(os.environ)
    kept.pop("SYNCLINE_STACK", None)
    os.environ.clear()
    os.environ.update(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
