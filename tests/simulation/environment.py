"""The environment variables of the processes that simulate, fixed so that a seed gives the same trace in each."""

from __future__ import annotations

import os
import sys
from typing import Final

CHUNK: Final = 20
"""Number of seeds that a process simulates per task."""
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # sets of strings have the same order in every process
    "AWS_ACCESS_KEY_ID": "AKIDOFTHESIMULATION",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-simulation",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "POWERTOOLS_METRICS_NAMESPACE": "Syncline",
    "POWERTOOLS_SERVICE_NAME": "simulation",
}


def fix_environment(module: str) -> None:
    """Restart Python with ``module`` and the same arguments in the fixed environment, unless it is set already."""
    if any(os.environ.get(name) != value for name, value in _ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | _ENVIRONMENT)
