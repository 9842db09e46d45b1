"""Put the project that is deployed into the wheel; everything else about the package is in pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "layers" / "syncline"))

from syncline.cli.project import SHIPPED, copy_parts  # noqa: E402 - setuptools leaves this folder out of the path


class BuildWithProject(build_py):  # type: ignore[misc]
    """Build the package with ``syncline/project``. An editable install takes the project from the checkout instead."""

    def run(self) -> None:
        """Build into an empty folder: modules that an earlier build left there would go into the wheel."""
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        copy_parts(ROOT, Path(self.build_lib, "syncline", SHIPPED.name))


setup(cmdclass={"build_py": BuildWithProject})
