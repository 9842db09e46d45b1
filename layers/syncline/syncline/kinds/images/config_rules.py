"""Configuration of the rules of a sync: tags of replaced images, required signatures, and removals."""

from __future__ import annotations

import re
import time
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, StrictBool, Tag

from syncline.config.model import Model
from syncline.config.sync import Patterns, Removals
from syncline.config.values import Authority, Duration, PublicKeys, TextPattern, text_schema

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


class SignerIdentity(Model):
    """The identity of a keyless signature: a short-lived certificate of an authority such as Fulcio, and a log's entry."""

    issuer: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="The issuer of the signer's token, exactly as the certificate names it.",
        examples=["https://token.actions.githubusercontent.com"],
    )
    subject: TextPattern = Field(
        description="The signer, as the certificate names it: a text, a glob (`*` does not match `/`, `**` does), or `re:` "
        "and a regular expression for the complete text.",
        examples=["https://github.com/acme/*/.github/workflows/release.yml@refs/heads/main"],
    )
    ca: Authority = Field(
        description="The certificates of the authority, all of which are trusted: `file:PATH` (relative to syncs.yaml, read "
        "by `apply`), a reference, or the PEM text.",
        examples=["file:fulcio.pem"],
    )
    log_key: PublicKeys = Field(
        description="The public keys of the transparency log, of which one must have signed the time of the signature: "
        "`file:PATH`, a reference, or the PEM text.",
        examples=["file:rekor.pub"],
    )


class SignatureRule(Model):
    """A signature that images must have before they are copied; exactly one of `public_key` and `identity` names the signer."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["public_key"]}, {"required": ["identity"]}]})

    repositories: Patterns = Field(
        Patterns(),
        description="Repositories, as the source names them, to which the rule applies. An image must satisfy every rule "
        "that applies to its repository.",
    )
    public_key: PublicKeys | None = Field(
        None,
        description="The signer's public keys, of which one must have made the signature: `file:PATH` (relative to "
        "syncs.yaml, read by `apply`), a reference, or the PEM text.",
        examples=["file:cosign.pub"],
    )
    identity: SignerIdentity | None = Field(None, description="The signer of keyless signatures.")
    attestation: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None,
        description="Require an attestation with this type of predicate by the signer, instead of a plain signature.",
        examples=["https://slsa.dev/provenance/v1"],
    )
    reference: TextPattern | None = Field(
        None,
        description="The name that the signer gave the image, as a pattern like `subject`. Without it the name is not "
        "checked, since a signature names its image by the digest.",
        examples=["registry.example/team/*"],
    )

    @property
    def signer(self) -> str:
        """The signer, for messages."""
        return "the public key" if self.identity is None else f"{self.identity.subject} of {self.identity.issuer}"


class ImagesRemovals(Removals):
    """Removal of tags that are gone from the source."""

    after: Duration | None = Field(
        None,
        description="The time for which complete listings of the source must have lacked a tag before it is removed. "
        "Defaults to no delay.",
        examples=["7d"],
    )
