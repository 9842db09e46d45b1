"""Kubernetes Secrets stay out of git: left out or encrypted, and nothing else changes by a byte."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.backups import secrets as detecting
from syncline.kinds.backups import secrets as hints
from syncline.kinds.backups.sealing import CERTAIN, MAGIC, Rule, Sealer, seal, staying, unseal
from syncline.kinds.backups.secrets import Verdict, inspect, is_harmless
from syncline.model import Outcome
from syncline.store.backup_records import Known
from tests.secret_ways import CONFIG, HARMLESS, JSON, PLANTED, WAYS, YAML, packed

KEY = base64.b64encode(bytes(range(64))).decode()
OTHER = base64.b64encode(bytes(64)).decode()
PATH = "c/n/x.yaml"
LEAVE_OUT = Sealer(Rule.LEAVE_OUT)
CRLF = b"\r\n"


def forms(data: bytes, depth: int = 4) -> Iterator[bytes]:
    """Yield data and what it may hold in compressed form, by means of the standard library alone."""
    yield data
    yield data.replace(b"\0", b"")
    if depth == 0:
        return
    for at in (data.find(b"\x1f\x8b"), data.find(b"BZh"), data.find(b"\xfd7zXZ"), data.find(b"(\xb5/\xfd"), 0):
        if at < 0:
            continue
        for unpack in (_gunzip, bz2.decompress, lzma.decompress, zlib.decompress, _unzstd):
            with contextlib.suppress(OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zstandard.ZstdError):
                yield from forms(unpack(data[at:]), depth - 1)


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


def _unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data).read(1_000_000)


def exposes(data: bytes) -> bool:
    """Return True if the planted value is in data, also encoded or compressed."""
    value = PLANTED.encode()
    encoded = base64.b64encode(value)
    inner = [base64.b64encode(b"x" * skip + value)[4:-4] for skip in range(3)]
    return any(needle in form for form in forms(data) for needle in (value, encoded, *inner))


def test_the_search_for_the_planted_value_finds_it() -> None:
    hidden = {name for name, (_, data) in WAYS.items() if not exposes(data)}
    # Their values are escaped or packed beyond what the search undoes; they have to be left out as a whole.
    assert len(hidden) < 12, hidden


@pytest.mark.parametrize("name", WAYS)
def test_no_way_to_write_a_secret_passes(name: str) -> None:
    path, data = WAYS[name]
    sealed = LEAVE_OUT.sealed(f"c/n/{path}", data)
    assert sealed.data is None or not exposes(sealed.data)
    if sealed.data is not None:
        assert len(sealed.data) < len(data)
        assert inspect([sealed.data]) is Verdict.CLEAN
    encrypted = Sealer(Rule.ENCRYPT, KEY).sealed(PATH, data).data
    assert encrypted is not None
    assert unseal(KEY, PATH, encrypted) == data
    assert encrypted.startswith(MAGIC)
    assert Sealer(Rule.KEEP).sealed(PATH, data).data == data


def test_enough_ways_and_harmless_documents() -> None:
    assert len(WAYS) >= 60
    assert len(HARMLESS) >= 30


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_names_secrets_is_left_as_it_is(name: str) -> None:
    path, data = HARMLESS[name]
    assert LEAVE_OUT.sealed(f"c/n/{path}", data).data == data
    assert Sealer(Rule.ENCRYPT, KEY).sealed(f"c/n/{path}", data).data == data


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("template", "SECRET_SUSPECTED"),
        ("json cut short", "SECRET_SUSPECTED"),
        ("tabs as indentation", "SECRET_SUSPECTED"),
        ("deep nesting", "SECRETS_UNSEEN"),
        ("plain yaml", CERTAIN),
        ("velero's archive", CERTAIN),
    ],
)
def test_what_is_left_out_has_a_code_unless_it_is_a_secret(name: str, code: str) -> None:
    sealed = LEAVE_OUT.sealed(*WAYS[name])
    assert (sealed.data, sealed.code) == (None, code)


# -- documents of one file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", CRLF])
@pytest.mark.parametrize("marker", [b"---\n", b"--- # the next\n", b"---\t\n", b"...\n---\n"])
def test_of_several_documents_only_the_secrets_go(marker: bytes, end: bytes) -> None:
    other = CONFIG.replace(b"settings", b"others")
    parts = [part.replace(b"\n", end) for part in (CONFIG, marker + YAML, marker + other)]
    kept = LEAVE_OUT.sealed("x.yaml", b"".join(parts)).data
    assert kept is not None
    assert CONFIG.replace(b"\n", end) in kept
    assert other.replace(b"\n", end) in kept
    assert not exposes(kept)


def test_documents_without_a_marker_before_the_first_and_with_an_end_are_told_apart() -> None:
    data = b"%YAML 1.1\n---\n" + CONFIG + b"...\n" + YAML + b"...\n" + CONFIG
    assert LEAVE_OUT.sealed(PATH, data).data == b"%YAML 1.1\n---\n" + CONFIG + b"...\n" + CONFIG


@pytest.mark.parametrize("between", [b"\n", CRLF, b""])
def test_of_several_json_documents_only_the_secrets_go(between: bytes) -> None:
    other = json.dumps({"kind": "ConfigMap", "data": {"a": "\u00e9"}}, ensure_ascii=False).encode()
    data = between.join([other, JSON, other])
    assert LEAVE_OUT.sealed("x.json", data).data == other + between + other


def test_what_would_not_be_clean_without_its_secrets_is_left_out_as_a_whole() -> None:
    broken = b"---\nkind: Secret\ndata: {p: [unbalanced\n"
    sealed = LEAVE_OUT.sealed(PATH, CONFIG + b"---\n" + YAML + broken)
    assert sealed.data is None


def test_a_list_with_a_secret_goes_as_a_whole() -> None:
    assert LEAVE_OUT.sealed(*WAYS["list"]).data is None


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_decompression_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "_UNPACKED", 1_000_000)
    assert inspect([gzip.compress(bytes(1_000_001))]) is Verdict.UNSEEN
    members = {str(number): gzip.compress(bytes(300_000)) for number in range(4)}
    assert inspect([packed(members)]) is Verdict.UNSEEN, "all members count together"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress])
def test_what_is_packed_too_tightly_is_not_unpacked(compress: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "_FREE", 1_000_000)
    assert callable(compress)
    assert inspect([compress(bytes(20_000_000))]) is Verdict.UNSEEN


def test_layers_are_capped() -> None:
    data = CONFIG
    for _ in range(30):
        data = gzip.compress(data)
    assert inspect([data]) is Verdict.UNSEEN
    text = "x"
    for _ in range(14):
        text = json.dumps({"kind": "Secret", "note": text, "of": "data of no Secret"})
    assert inspect([text.encode()]) is Verdict.UNSEEN


def test_a_zstd_frame_that_takes_too_much_memory_is_not_unpacked() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert inspect([writer.compress(YAML) + writer.flush()]) is Verdict.UNSEEN


@pytest.mark.parametrize(
    "data",
    [
        b"Secret data\n" + b"\\" * 300_000,
        b"Secret data\nkind:" + b'"' * 300_000,
        b"Secret data\n" + b"!" * 300_000,
        b"data binary\n" + b"!" * 3_000_000,
        b"[" * 100_000 + b'"Secret" data',
        b"- " * 100_000 + b"Secret data",
        b"x: data Secret\na: &a [x]\n" + b"".join(b"a%d: &a [%s]\n" % (n, b",".join([b"*a"] * 10)) for n in range(40)),
        b"x: data Secret\na: &a {b: c}\n"
        + b"".join(b"a%d: &a {<<: [%s]}\n" % (n, b",".join([b"*a"] * 10)) for n in range(40)),
    ],
    ids=["backslashes", "quotes", "tags", "tags of no secret", "brackets", "dashes", "aliases", "merges"],
)
@pytest.mark.timeout(20)
def test_time_grows_with_size_alone(data: bytes) -> None:
    assert inspect([data]) in (Verdict.CLEAN, Verdict.UNSEEN)


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "braces": lambda size: b"data Secret\n" + b"{{{{{{{{{\n" * (size // 10),
    "brackets": lambda size: b"Secret data: [" + b"[a,]," * (size // 5),
    "line ends": lambda size: b"Secret data\n" + b"\\\n" * (size // 2),
    "members": lambda size: gzip.compress(b"x") * (size // 21),
    "unpacked": lambda size: gzip.compress(b"data Secret\n" + b"- [[[]]]\n" * (size // 9)),
    "base64": lambda size: (base64.b64encode(gzip.compress(bytes(9_000))) + b"!") * (size // 80),
    "documents": lambda size: YAML + (b"---\nx: &x Secret\ndata: {p: [*x]}\n" * (size // 34)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_capped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "_WORK", 2_000_000)
    assert LEAVE_OUT.sealed(PATH, HOSTILE[name](100)).code in (None, CERTAIN)
    assert LEAVE_OUT.sealed(PATH, HOSTILE[name](500_000)).data is None


def test_escapes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_MOST_ESCAPES", 1_000)
    assert LEAVE_OUT.sealed(PATH, b"a: b" + b"\\\n" * 1_000).data is not None
    assert LEAVE_OUT.sealed(PATH, b"a: b" + b"\\\n" * 1_001).code == "SECRETS_UNSEEN"


@pytest.mark.timeout(20)
def test_time_to_read_an_archive_grows_with_its_size_alone() -> None:
    member = packed({"a": b"x"})[:1024]
    assert inspect([member * 10_000]) is Verdict.CLEAN
    assert inspect([gzip.compress(b"x") * 30_000]) is Verdict.CLEAN


def test_an_ordinary_document_takes_a_small_part_of_the_work_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = b"apiVersion: v1\nkind: List\nitems:\n" + 1_000 * (
        b"- kind: Pod\n  spec:\n    volumes:\n    - {name: tls, secret: {secretName: Secret}}\n    data: [1, 2, 3]\n"
    )
    monkeypatch.setattr(detecting, "_WORK", detecting._WORK * len(pods) // detecting.LARGEST)
    assert LEAVE_OUT.sealed(PATH, pods).data == pods


def test_an_inspection_ends_with_the_time_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "_LOOK", 10_000)
    with pytest.raises(detecting.OutOfTime):
        LEAVE_OUT.sealed(PATH, HOSTILE["brackets"](50_000), lambda: True)
    with pytest.raises(detecting.OutOfTime):
        LEAVE_OUT.refusal([HOSTILE["unpacked"](50_000)], lambda: True)
    assert LEAVE_OUT.sealed(PATH, YAML, lambda: True).data is None, "what takes no time is inspected"


def test_what_is_too_large_to_be_parsed_is_searched_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detecting, "LARGEST", 50_000)
    monkeypatch.setattr(detecting, "_PORTION", 10_000)
    monkeypatch.setattr(detecting, "_OVERLAP", 1_000)
    filler = b"a: nothing\n" * 6_000
    for at in (0, 9_990, 10_000, 49_990, 55_000, len(filler)):
        chunks = [filler[:at], YAML, filler[at:]]
        assert inspect(chunks) is Verdict.UNSEEN, at
    assert inspect([filler]) is Verdict.CLEAN
    wide = (filler + YAML).decode().encode("utf-16-le")
    assert inspect([wide]) is Verdict.UNSEEN
    assert inspect([gzip.compress(filler + YAML)]) is Verdict.UNSEEN
    binary = bytes(range(256)) * 300
    assert inspect([binary + b"the Secret data" + binary]) is Verdict.CLEAN
    assert inspect([binary + base64.b64encode(YAML) + binary]) is Verdict.SECRET


def test_chunks_of_any_size_give_the_same_verdict() -> None:
    for name in ("velero's archive", "zip", "gzip with text behind it", "utf-16 big-endian", "zstd"):
        data = WAYS[name][1]
        assert inspect(data[at : at + 7] for at in range(0, len(data), 7)) is Verdict.SECRET, name
    for name in ("tar of harmless files", "zip of harmless files", "broken gzip"):
        data = HARMLESS[name][1]
        assert inspect(data[at : at + 7] for at in range(0, len(data), 7)) is Verdict.CLEAN, name


# -- every way inside of every other -----------------------------------------------------------------------------------

WRAPPINGS = [
    gzip.compress,
    zstandard.ZstdCompressor().compress,
    lambda data: packed({"x": b"y", "z": data}),
    lambda data: json.dumps({"kind": "ConfigMap", "binaryData": {"x": base64.b64encode(data).decode()}}).encode(),
    lambda data: json.dumps({"kind": "ConfigMap", "data": {"x": data.decode("latin-1")}}).encode(),
    lambda data: data.decode("latin-1").encode("utf-16"),
    lambda data: b"\xef\xbb\xbf" + data,
]
TEXTS = [YAML, JSON, WAYS["every letter escaped"][1], WAYS["folded inside quotes"][1], WAYS["tag !!binary"][1]]


@given(st.sampled_from(TEXTS), st.lists(st.sampled_from(WRAPPINGS), max_size=3))
def test_what_is_wrapped_several_times_is_found(data: bytes, wrappings: list[object]) -> None:
    text_only = True
    for wrapping in wrappings:
        assert callable(wrapping)
        if wrapping in WRAPPINGS[4:] and not text_only:
            continue  # bytes are no text
        data = wrapping(data)
        text_only &= wrapping in (*WRAPPINGS[3:5],)
    assert not is_harmless(data)
    assert inspect([data]) is not Verdict.CLEAN


@given(st.text("SecretkindaDt:\\\"'u0053x \n{}[],&*!#-", max_size=80))
def test_a_glance_denies_only_what_an_inspection_finds_clean(text: str) -> None:
    if is_harmless(text.encode()):
        assert inspect([text.encode()]) is Verdict.CLEAN


@given(st.binary(max_size=3000))
def test_no_bytes_break_the_inspection(data: bytes) -> None:
    for head in (b"", b"\x1f\x8b\x08", b"(\xb5/\xfd", b"PK\x03\x04", b"Secret data\0", b"\xfd7zXZ\0", b"BZh91AY&SY"):
        assert inspect([head + data]) in Verdict


# -- encryption --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_the_same_content_is_encrypted_to_the_same_bytes(data: bytes) -> None:
    key = base64.b64decode(KEY)
    sealed = seal(key, PATH, data)
    assert sealed == seal(key, PATH, data)
    assert unseal(KEY, PATH, sealed) == data
    assert all(len(line) <= 76 for line in sealed.splitlines())


@pytest.mark.parametrize(
    ("key", "path", "change"),
    [(OTHER, PATH, b""), (KEY, "c/n/other.yaml", b""), (KEY, PATH, b"AAAA"), (KEY, PATH, b"*")],
)
def test_another_key_path_or_content_is_refused(key: str, path: str, change: bytes) -> None:
    sealed = seal(base64.b64decode(KEY), PATH, YAML) + change
    with pytest.raises(SynclineError) as caught:
        unseal(key, path, sealed)
    assert caught.value.code.name == "SECRET_SEALED"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", "short", base64.b64encode(bytes(31)).decode(), f"!{KEY}"])
def test_a_key_that_is_none_is_a_configuration_error(key: str | None) -> None:
    with pytest.raises(SynclineError) as caught:
        Sealer(Rule.ENCRYPT, key).sealed(PATH, YAML)
    assert caught.value.code.name == "CONFIG_INVALID"


def test_what_was_made_by_one_rule_is_told_from_what_another_makes() -> None:
    names = {Sealer(rule, KEY).name for rule in Rule} | {Sealer(Rule.ENCRYPT, OTHER).name}
    assert len(names) == 4
    assert all(KEY not in name for name in names)
    assert "leave-out" not in names, "what the detection before this one let pass is read again"


def test_what_is_too_large_to_be_held_cannot_be_encrypted() -> None:
    encrypting = Sealer(Rule.ENCRYPT, KEY)
    assert encrypting.refusal([YAML]) == "SECRETS_UNSEEN"
    assert encrypting.refusal([CONFIG]) is None
    assert LEAVE_OUT.refusal([YAML]) == CERTAIN
    assert LEAVE_OUT.refusal([CONFIG]) is None


def test_what_is_known_to_be_left_out_is_counted_and_named_if_it_has_a_code() -> None:
    known = {"a": Known("1", "blob"), "b": Known("2", ""), "c": Known("3", "", "SECRET_SUSPECTED")}
    page = staying("main", known, frozenset())
    assert (page.cursor, page.equal, page.left_out) == ("", 1, 1)
    assert [(each.name, each.outcome, each.code, each.source, each.moved_bytes) for each in page.results] == [
        ("c", Outcome.LEFT_OUT, "SECRET_SUSPECTED", None, 0)
    ]
