"""Targets of short texts: references, addresses, links, challenges, tokens, error messages of git, and times."""

from __future__ import annotations

import re

from syncline.clients.git.failures import error_of_git
from syncline.clients.http.addresses import Address, Endpoint, is_refused, redacted
from syncline.clients.http.failures import retry_after
from syncline.clients.registry.auth import is_expected_realm, parse_challenges
from syncline.clients.registry.reference import is_digest, parse_digest, parse_reference, parse_repository, parse_tag
from syncline.clients.registry.transport import next_link, same_host_target
from syncline.kinds.files.events import instant
from syncline.kinds.tokens.probe import expiry_of, problem_of, short_hash
from syncline.schedule import check_schedule
from tests.fuzz.target import Target, must, refusals

_DIGEST = b"sha256:" + b"ab" * 32
_REGISTRY = Endpoint.parse("https://registry.example.com:5000")


def _references(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_repository, parse_tag, parse_digest, parse_reference):
        with refusals():
            found = parse(text)
            must(found == text and text.isascii() and text.isprintable(), f"{parse.__name__} accepts {text!r}")
            must(".." not in text.split("/"), f"{text!r} contains a dot segment")
    must(not is_digest(text) or len(text) in (71, 135), f"{text!r} is accepted as a digest")


def _addresses(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    hidden = redacted(text)
    must(re.search(r"://[^/@\s…]+@", hidden) is None, f"{hidden!r} contains user information")
    is_refused(text)
    with refusals():
        Endpoint.parse(text)
    address = Address.parse(text)
    if address is None:
        return
    must("@" not in address.host and "/" not in address.host, f"{address.host!r} is accepted as a host")
    must(Address.parse(address.url) == address, f"{address.url!r} is parsed as another address")
    is_refused(address.name)
    is_expected_realm(address, _REGISTRY)


def _links(data: bytes) -> None:
    values = data.decode("latin-1").split("\n")
    link = next_link(values)
    with refusals():
        target = same_host_target(_REGISTRY, "/v2/app/tags/list", values[0] if link is None else link)
        must(target.startswith(("/", "?")), f"{target!r} is accepted as a target")


def _challenges(data: bytes) -> None:
    for each in parse_challenges(data.decode("latin-1").split("\n")):
        must(each.scheme == each.scheme.lower() and each.scheme, "a scheme is empty or not in lower case")
    retry_after({"Retry-After": data.decode("latin-1")})


def _tokens(data: bytes) -> None:
    text = data.decode("latin-1")
    expiry_of(text)
    must(len(short_hash(text)) == 8, "the hash of a token does not have 8 digits")
    if problem_of(text) is None:
        must(not re.search(r"[\x00-\x20\x7f-\xff;,\"\\]", text), f"{text!r} is accepted as the value of a cookie")


def _git_words(data: bytes) -> None:
    error = error_of_git("fetch", 128, data.decode("utf-8", "replace"))
    must(len(error.what) < 2000 and "\n" not in error.what, "the message of git is too long or has several lines")


def _times(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    instant(text)
    with refusals(ValueError):
        check_schedule(text)


TARGETS = (
    Target("references", _references, (b"team/app", b"v1.0_a", _DIGEST, b"sha512:" + b"0" * 128, b"a//b", b"../a")),
    Target(
        "addresses",
        _addresses,
        (b"https://u:p@host.example:8443/a?token=x#y", b"http://[fe80::1%25eth0]/", b"http://169.254.169.254/", b"//a"),
    ),
    Target(
        "links",
        _links,
        (b'</v2/_catalog?last=b&n=1>; rel="next"', b"<https://elsewhere/v2>; rel=next", b'<x>; a="\\">", rel="next"'),
    ),
    Target(
        "challenges",
        _challenges,
        (b'Bearer realm="https://auth.example.com/token",service="r",scope="a:b:c"', b"Negotiate abc=, Basic realm=x"),
    ),
    Target("tokens", _tokens, (b"eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9.x", b"a b", b"a.b.c")),
    Target("git-words", _git_words, (b"fatal: Authentication failed for 'https://u:p@h/r'", b"remote: \x1b[31mno\r\n")),
    Target("times", _times, (b"2026-01-02T03:04:05Z", b"1700000000000", b"rate(1 hour)", b"cron(0 3 * * ? *)", b"nan")),
)
