"""The process that simulations run in: its environment is fixed, so that the same seed has the same course in each."""

from __future__ import annotations

import os
import sys
from typing import Final

SHARE: Final = 20
"""Seeds that a process takes at a time."""
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # sets of text have the same order in every process
    "AWS_ACCESS_KEY_ID": "AKIDOFTHESIMULATION",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-simulation",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "POWERTOOLS_METRICS_NAMESPACE": "Syncline",
    "POWERTOOLS_SERVICE_NAME": "simulation",
}


def fix_environment(module: str) -> None:
    """Run ``module`` anew with its arguments in the fixed environment, unless this process has it."""
    if any(os.environ.get(name) != value for name, value in _ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | _ENVIRONMENT)
