"""Numbers, sizes, times and digests as text."""

from __future__ import annotations

from typing import Final

_SHORT_DIGEST: Final = 12  # hex digits, as in git and docker


_LONGEST_FULL: Final = 20  # characters of a fingerprint that is not shortened


def size(count: float) -> str:
    """Return a number of bytes as text: ``0 B``, ``12.3 KiB``, ``4.0 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        # 1023.96 KiB would be shown as 1024.0 KiB instead of 1.0 MiB.
        if value < 1023.95 or unit == "TiB":
            break
    return f"{value:,.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a duration in at most two units: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    for large, small, large_seconds, small_seconds, limit in _UNITS:
        if rounded < large_seconds * limit:
            rest = rounded % large_seconds // small_seconds
            return f"{rounded // large_seconds} {large}" + (f" {rest} {small}" if rest else "")
    return f"{rounded // 86_400} d"


_UNITS: Final = (("min", "s", 60, 1, 60), ("h", "min", 3600, 60, 24), ("d", "h", 86_400, 3600, 10))


def rough_duration(seconds: float) -> str:
    """Return an approximate duration in one unit: ``12 s``, ``3 min``, ``2 h``, ``5 d``."""
    for unit, unit_seconds, most in (("s", 1, 59), ("min", 60, 59), ("h", 3600, 47)):
        if round(seconds / unit_seconds) <= most:
            return f"{max(round(seconds / unit_seconds), 0)} {unit}"
    return f"{round(seconds / 86_400)} d"


def relative_time(then: float, now: float) -> str:
    """Return a time relative to now: ``just now``, ``3 min ago``, ``in 2 h``."""
    if abs(now - then) < 1:
        return "just now"
    return f"{rough_duration(now - then)} ago" if then < now else f"in {rough_duration(then - now)}"


def number(count: float) -> str:
    """Return a count with thousands separators: ``12,345``; with one decimal if it is below ten and not an integer."""
    return f"{count:.1f}" if count < 9.95 and round(count, 1) != round(count) else f"{count:,.0f}"


def plural(count: int, one: str, more: str = "") -> str:
    """Return a count with its noun: ``1 item``, ``2 items``."""
    return f"{number(count)} {one if count == 1 else more or one + 's'}"


def count_phrases(*counts: tuple[int, str] | tuple[int, str, str]) -> list[str]:
    """Return the counts that are not zero, each with its words: ``2,310 equal``, ``3 left out``, ``2 conflicts``.

    Words that have a plural form are followed by it.
    """
    return [plural(count, words[0], words[-1]) for count, *words in counts if count]


def digest(value: str | None, *, full: bool = False) -> str:
    """Return a fingerprint, shortened unless ``full``; ``-`` for None."""
    if value is None:
        return "-"
    digits = value.removeprefix("sha256:").removeprefix("sha512:")
    return value if full or len(digits) <= _LONGEST_FULL else digits[:_SHORT_DIGEST]
