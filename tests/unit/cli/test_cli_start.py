"""The start of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import syncline

_SCRIPT = """
import sys
from syncline.cli.main import _hide_slow_modules
_hide_slow_modules()
import botocore.compat, botocore.httpsession
print(botocore.compat.HAS_CRT, "OpenSSL" in sys.modules)
"""


@pytest.mark.parametrize(("arguments", "printed"), [((), "False False"), (("--stack", "prod"), "True True")])
def test_slow_modules_of_botocore_are_only_imported_for_a_stack_on_aws(
    arguments: tuple[str, ...], printed: str
) -> None:
    pytest.importorskip("awscrt")
    pytest.importorskip("OpenSSL")
    environ = os.environ | {"PYTHONPATH": str(Path(syncline.__file__).parents[1])}
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed
