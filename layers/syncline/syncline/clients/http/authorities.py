"""The certificate authorities that libcurl trusts."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pycurl

_HASHED: Final = ("/etc/pki/ca-trust/extracted/pem/directory-hash",)


def set_authorities(easy: Any, own: str | None, *, system: bool) -> None:
    """Make a libcurl handle trust the authorities in ``own`` (PEM text), and the system's if ``system``."""
    file, folder = system_authorities() if system else (None, None)
    if folder is not None:
        # libcurl reads a bundle file for each connection, which takes 5 ms. From a folder it reads one certificate.
        easy.setopt(pycurl.CAPATH, folder)
        if own is None:
            easy.unsetopt(pycurl.CAINFO)
        else:
            easy.setopt(pycurl.CAINFO_BLOB, own.encode())
        return
    easy.unsetopt(pycurl.CAPATH)
    if own is not None:
        beside = Path(file).read_text(encoding="utf-8") if file is not None else ""
        easy.setopt(pycurl.CAINFO_BLOB, (f"{beside}\n{own}" if beside else own).encode())
    elif file is not None:
        easy.setopt(pycurl.CAINFO, file)


@lru_cache(maxsize=1)
def system_authorities() -> tuple[str | None, str | None]:
    """Return the system's authorities: the bundle file, and the folder of certificates named by subject hash."""
    paths = ssl.get_default_verify_paths()
    if paths.openssl_cafile_env not in os.environ:
        for folder in map(Path, filter(None, (paths.capath, *_HASHED))):
            if folder.is_dir() and any(file.suffix == ".0" for file in folder.iterdir()):
                return paths.cafile, str(folder)
    return paths.cafile, None
