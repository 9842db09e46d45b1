"""A SHA-2 hash whose state can be stored and resumed in another process.

A large layer may take several functions one after the other, and its digest must still cover all its bytes. ``hashlib``
cannot store the state of a hash, but OpenSSL, which ``hashlib`` calls, keeps it in a plain structure (``SHA256_CTX``,
``SHA512_CTX`` in openssl/sha.h). If that library is unavailable, or its hash of a known text differs from that of
``hashlib``, states are not stored, and the bytes are read again instead.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
from functools import cache
from typing import Final

_SIZES: Final = {"sha256": (112, 32), "sha512": (216, 64)}
"""The sizes of OpenSSL's structure and of the hash in bytes, by algorithm."""


@cache
def _openssl() -> ctypes.CDLL | None:
    """Return the library behind ``hashlib``, None if a stored and resumed state does not give the hash of ``hashlib``."""
    try:
        import _hashlib  # noqa: PLC0415 - a Python without OpenSSL lacks it

        library = ctypes.CDLL(_hashlib.__file__)
        text = bytes(range(200))
        for algorithm in _SIZES:
            first = _OpenSSLHash(library, algorithm)
            first.update(text[:77])
            second = _OpenSSLHash(library, algorithm, first.state())
            second.update(text[77:])
            if second.hexdigest() != hashlib.new(algorithm, text).hexdigest():
                return None
    except (ImportError, AttributeError, OSError):
        return None
    return library


class _OpenSSLHash:
    def __init__(self, library: ctypes.CDLL, algorithm: str, state: bytes | None = None) -> None:
        prefix = algorithm.upper()
        size, self._length = _SIZES[algorithm]
        self._update = getattr(library, f"{prefix}_Update")
        self._final = getattr(library, f"{prefix}_Final")
        self._update.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        self._final.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        if state is None:
            self._context = ctypes.create_string_buffer(size)
            getattr(library, f"{prefix}_Init")(self._context)
        else:
            self._context = ctypes.create_string_buffer(state, size)

    def update(self, data: bytes) -> None:
        self._update(self._context, data, len(data))

    def state(self) -> bytes:
        return self._context.raw

    def hexdigest(self) -> str:
        digest = ctypes.create_string_buffer(self._length)
        # Final destroys the structure, and more bytes may follow.
        copy = ctypes.create_string_buffer(self._context.raw, len(self._context))
        self._final(digest, copy)
        return digest.raw.hex()


class RunningHash:
    """The hash of the first `offset` bytes; `algorithm` is "sha256" or "sha512"."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.offset = 0
        library = _openssl()
        self._hash = _OpenSSLHash(library, algorithm) if library else hashlib.new(algorithm)

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.offset += len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> list[str | int] | None:
        """Return the state of the hash as JSON values, None if it cannot be stored."""
        if not isinstance(self._hash, _OpenSSLHash):
            return None
        return [self.offset, base64.b64encode(self._hash.state()).decode()]

    @classmethod
    def resume(cls, algorithm: str, state: list[str | int] | None) -> RunningHash:
        """Return the hash that :meth:`state` stored, or a new one at offset 0 if it cannot be resumed."""
        running = cls(algorithm)
        library = _openssl()
        if state is None or library is None:
            return running
        stored = base64.b64decode(str(state[1]))
        if len(stored) != _SIZES[algorithm][0]:
            return running
        running._hash = _OpenSSLHash(library, algorithm, stored)
        running.offset = int(state[0])
        return running
