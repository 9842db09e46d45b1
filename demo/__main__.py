"""Run, extend or stop the sample: ``python -m demo run|push|down``, behind `make run`, `make push` and `make down`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from demo import actions
from demo.settings import Settings
from syncline.cli.deploy import local_environment
from syncline.cli.error_output import print_error
from syncline.errors import SynclineError

INTERRUPTED: Final = 130
FAILED: Final = 2

_ACTIONS: Final = {"run": actions.run, "push": actions.push, "down": actions.down}


def main(arguments: list[str]) -> int:
    """Perform an action; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("action", choices=_ACTIONS)
    action = _ACTIONS[parser.parse_args(arguments).action]
    _use_local_environment()
    try:
        return action(Settings.load())
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: `make run` continues from here, `make down` stops the sample\n")
        return INTERRUPTED
    except SynclineError as error:
        print_error(error, as_json=False)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    return FAILED


def _use_local_environment() -> None:
    """Remove settings for AWS, a stack or a proxy from the environment."""
    kept = local_environment(os.environ)
    kept.pop("SYNCLINE_STACK", None)
    os.environ.clear()
    os.environ.update(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
