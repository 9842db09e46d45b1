"""Layers of real files: this machine's Python, the packages of this environment, licences and small programs.

The same files give the same bytes: entries are sorted, times and owners are zero, the compression level is fixed.
"""

from __future__ import annotations

import gzip
import io
import platform
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Final

from syncline.clients.registry.reference import digest_of

PREFIX: Final = PurePosixPath("usr/local")
LIBRARY: Final = PREFIX / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"

_LICENCES: Final = Path("/usr/share/common-licenses")
_LEVEL: Final = 6
_NO_EXTENSION: Final = ("_tkinter", "_test", "_ctypes_test", "_xx", "xx")
_LEFT_OUT: Final = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip"})


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as stored by registries: ``data`` is a gzipped tar, ``diff_id`` the digest of the tar."""

    digest: str
    diff_id: str
    description: str
    data: bytes = field(repr=False)


Files = Mapping[PurePosixPath, Path | bytes]
"""Maps a path in the image to a file of this machine, or to content."""


def layer(description: str, files: Files) -> Layer:
    """Return a layer of files."""
    raw = _tar(files)
    data = gzip.compress(raw, _LEVEL, mtime=0)
    return Layer(digest_of(data), digest_of(raw), description, data)


def interpreter() -> Layer:
    """Return a layer of this machine's Python program and its shared libraries, the base of runnable images."""
    program = Path(sys.executable).resolve()
    files: dict[PurePosixPath, Path | bytes] = {PREFIX / "bin" / "python3": program}
    for path in _libraries([program, *_extensions()]):
        # The program contains the path of the loader; LD_LIBRARY_PATH is for the other libraries.
        destination = (
            PurePosixPath(str(path)).relative_to("/") if path.name.startswith("ld-") else PREFIX / "lib" / path.name
        )
        files[destination] = path
    files[PurePosixPath("etc/os-release")] = Path("/etc/os-release")
    files[PurePosixPath("etc/passwd")] = (
        b"root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"
    )
    return layer("interpreter", files)


def standard_library() -> Layer:
    """Return a layer of the standard library: source files and extension modules."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = (path for path in _files_below(root) if path.suffix == ".py" or path.name == "LICENSE.txt")
    files: dict[PurePosixPath, Path | bytes] = {LIBRARY / PurePosixPath(path.relative_to(root)): path for path in texts}
    files |= {LIBRARY / "lib-dynload" / path.name: path for path in _extensions()}
    return layer("standard library", files)


def packages(*names: str) -> Layer:
    """Return a layer of Python packages of this environment, with their licences."""
    files: dict[PurePosixPath, Path | bytes] = {}
    for name in names:
        for entry in distribution(name).files or ():
            path = Path(str(entry.locate()))
            if ".." not in entry.parts and entry.suffix != ".pyc" and path.is_file():
                files[LIBRARY / "site-packages" / PurePosixPath(*entry.parts)] = path
    return layer(", ".join(names), files)


def licences() -> Layer:
    """Return a layer of Debian's licence texts."""
    files = {PurePosixPath("licences") / path.name: path for path in sorted(_LICENCES.glob("*")) if path.is_file()}
    return layer("licences", {PurePosixPath("licences/README"): b"Licence texts, one a file.\n", **files})


def machine() -> str:
    """Return this machine's architecture, by its name in image configurations."""
    name = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(name, name)


def _extensions() -> list[Path]:
    """Return the extension modules of the standard library, except those for Tk and for tests."""
    modules = Path(str(sysconfig.get_config_var("DESTSHARED"))).glob("*.so")
    return sorted(path for path in modules if not path.name.startswith(_NO_EXTENSION))


def _files_below(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if path.name not in _LEFT_OUT and not path.name.startswith("config-"):
                yield from _files_below(path)
        elif path.is_file():
            yield path


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the shared libraries of programs and extension modules, including the loader."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)  # noqa: S603, S607 - part of libc
    words = (line.split() for line in listed.stdout.splitlines() if line.startswith("\t"))
    paths = {Path(word) for line in words for word in line if word.startswith("/")}
    # Extension modules written in Rust also need this library.
    paths |= {path.with_name("libgcc_s.so.1") for path in paths if path.name.startswith("libc.so")}
    return sorted(path for path in paths if path.is_file())


def _tar(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in sorted({parent for path in files for parent in path.parents} - {PurePosixPath()}):
            entry = tarfile.TarInfo(f"{folder}/")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, source in sorted(files.items()):
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(str(path))
            entry.size = len(content)
            entry.mode = 0o755 if _is_program(path) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _is_program(path: PurePosixPath) -> bool:
    return path.parent.name == "bin" or ".so" in path.suffixes or path.name.startswith("ld-")
