"""Configuration of the tags under which replaced images are kept."""

from __future__ import annotations

import re
import time
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag

from syncline.config.model import Model
from syncline.config.values import text_schema

LONGEST_TAG: Final = 128
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGITS: Final = 12
"""Hexadecimal digits of a digest in a tag."""
_LONGEST: Final = 60
"""Characters of a template at most, so that the tag keeps at least half of its length."""
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_PARTS: Final = {"tag": ".+", "date": r"\d{8}", "time": r"\d{6}", "digest": "[0-9a-f]{12}"}
"""The parts of a template, with regular expressions for their values."""


def _check_template(text: str) -> str:
    names = _PLACEHOLDER.findall(text)
    if unknown := [name for name in names if name not in _PARTS]:
        raise ValueError(f"has the unknown part {{{unknown[0]}}}; there are {{tag}}, {{date}}, {{time}} and {{digest}}")
    if names.count("tag") != 1:
        raise ValueError("must contain {tag} once, or two tags would share a name")
    if len(names) == 1:
        raise ValueError("must contain {date}, {time} or {digest}, or the next replaced image would need the same name")
    if len(text) > _LONGEST:
        raise ValueError(f"has {len(text)} characters; allowed are {_LONGEST}")
    if _TAG.fullmatch(_PLACEHOLDER.sub("0", text)) is None:
        raise ValueError("does not make a tag; write letters, digits, '_', '.' and '-' around the parts")
    return text


class Keeping(Model):
    """Replace tags that differ at the target, and keep each replaced image under another tag."""

    keep: Annotated[str, AfterValidator(_check_template), text_schema(maxLength=_LONGEST)] = Field(
        description="The tag of a replaced image: `{tag}`, and at least one of `{date}` and `{time}` (UTC, of the run's "
        "start) and `{digest}` (the first 12 digits).",
        examples=["{tag}-{date}"],
    )

    def name(self, tag: str, digest: str, run: str) -> str:
        """Return the tag of a replaced image, the same in each attempt of a run. A long tag is shortened."""
        start = re.match(r"(\d{8})-(\d{6})", run)
        date, clock = start.groups() if start else time.strftime("%Y%m%d %H%M%S", time.gmtime()).split()
        parts = {"date": date, "time": clock, "digest": short_digest(digest)}
        room = LONGEST_TAG - len(self.keep.format(tag="", **parts))
        return self.keep.format(tag=tag[:room], **parts)

    def looks_kept(self, tag: str) -> bool:
        """Return True if a tag has the form of those of replaced images."""
        texts = _PLACEHOLDER.split(self.keep)
        form = "".join(_PARTS[text] if number % 2 else re.escape(text) for number, text in enumerate(texts))
        return re.fullmatch(f"{form}(-[0-9a-f]{{{_DIGITS}}})?", tag) is not None


def short_digest(digest: str) -> str:
    """Return the digits of a digest that are part of a tag."""
    return digest.partition(":")[2][:_DIGITS]


def _form(value: object) -> str:
    return "<keep>" if isinstance(value, dict | Keeping) else "<bool>"


Overwriting: TypeAlias = Annotated[
    Annotated[StrictBool, Tag("<bool>")] | Annotated[Keeping, Tag("<keep>")], Discriminator(_form)
]
