"""The sample's images: fourteen repositories of three organizations that share most of their layers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from string import Template
from typing import Final

from demo import layers
from demo.images import DOCKER, OCI, Image, ImageInfo, MediaTypes, image, index
from demo.layers import Layer

LATEST: Final = "latest"
SIGNED: Final = ("payments/api", "2.1.1")
"""The repository and tag of the image that has a signature."""

_PROGRAM: Final = Template(Path(__file__).with_name("program.py.txt").read_text())
_PYTHON: Final = ("interpreter", "stdlib")

_LAYERS: Final[Mapping[str, Callable[[], Layer]]] = {
    "interpreter": layers.interpreter,
    "stdlib": layers.standard_library,
    "licences": layers.licences,
    "certs": lambda: layers.packages("certifi"),
    "web": lambda: layers.packages("flask", "werkzeug", "jinja2", "markupsafe", "itsdangerous", "click", "blinker"),
    "model": lambda: layers.packages(
        "pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"
    ),
    "crypto": lambda: layers.packages("cryptography", "cffi", "pycparser"),
    "aws": lambda: layers.packages("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "python-dateutil", "six"),
    "terminal": lambda: layers.packages("rich", "pygments", "typer", "shellingham"),
}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: the layers of its images, and its versions.

    ``aliases`` are further tags of the last version. ``docker`` are versions in Docker's format instead of OCI's. With
    ``architectures``, each version is an index with an image for each of them.
    """

    name: str
    layers: tuple[str, ...]
    versions: tuple[str, ...]
    aliases: tuple[str, ...] = (LATEST,)
    program: bool = True
    docker: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        return (*self.versions, *self.aliases)

    def images(self) -> Iterator[tuple[Image, tuple[str, ...]]]:
        """Yield the image of each version, with its tags."""
        for version in self.versions:
            tags = (version, *self.aliases) if version == self.versions[-1] else (version,)
            yield self._image(version), tags

    def _image(self, version: str) -> Image:
        if self.architectures:
            return index({each: self._single(version, each) for each in self.architectures})
        return self._single(version, layers.machine())

    def _single(self, version: str, architecture: str) -> Image:
        shared = [shared_layer(name) for name in self.layers]
        media_types: MediaTypes = DOCKER if version in self.docker else OCI
        if not self.program:
            about = f"{self.name} {version} for {architecture}\n".encode()
            own = layers.layer("about", {PurePosixPath("etc/about"): about})
            return image(ImageInfo(self.name, version, architecture), [*shared, own], media_types)
        path = PurePosixPath("app/main.py")
        text = _PROGRAM.substitute(name=self.name, version=version).encode()
        own = layers.layer("program", {path: text})
        return image(ImageInfo(self.name, version, architecture, str(path)), [*shared, own], media_types)


@cache
def shared_layer(name: str) -> Layer:
    """Return a shared layer, created on the first call."""
    return _LAYERS[name]()


def _python_aliases() -> tuple[str, ...]:
    major, minor, _ = platform.python_version_tuple()
    return (f"{major}.{minor}", major, LATEST)


REPOSITORIES: Final = (
    Repository("payments/api", (*_PYTHON, "web", "model"), ("2.0.0", "2.1.0", SIGNED[1])),
    Repository("payments/fraud", (*_PYTHON, "model", "terminal"), ("0.9.0", "1.0.0")),
    Repository("payments/ledger", (*_PYTHON, "model", "crypto"), ("1.4.0", "1.5.0")),
    Repository("payments/migrations", (*_PYTHON, "terminal"), ("2026.09", "2026.10", "2026.11")),
    Repository("payments/settlement", (*_PYTHON, "model", "aws"), ("1.0.0", "1.0.1")),
    Repository("platform/aws-sdk", (*_PYTHON, "aws"), (version_of("boto3"),)),
    Repository("platform/certs", ("certs",), (version_of("certifi"),), program=False),
    Repository("platform/licences", ("licences",), ("1.0", "1.1"), program=False, architectures=("amd64", "arm64")),
    Repository("platform/python", _PYTHON, (platform.python_version(),), _python_aliases()),
    Repository("platform/toolbox", (*_PYTHON, "terminal"), ("0.9.0", "1.0.0", "1.1.0")),
    Repository("web/admin", (*_PYTHON, "web", "crypto"), ("1.8.0", "1.9.0")),
    Repository("web/docs", (*_PYTHON, "web"), ("2026.10", "2026.11")),
    Repository("web/frontend", (*_PYTHON, "web"), ("3.2.0", "3.2.1", "3.3.0")),
    Repository("web/legacy", (*_PYTHON, "web"), ("5.1", "5.2", "6.0"), docker=("5.1", "5.2")),
)
ORGANIZATIONS: Final = tuple(sorted({each.name.partition("/")[0] for each in REPOSITORIES}))
