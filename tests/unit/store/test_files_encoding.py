"""The format of packed records, and their division into pieces."""

from __future__ import annotations

import random
import zlib
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.store.files_encoding import SEGMENT_ROWS, Contents, Entry, Gone, Piece, is_file, pack, pieces, unpack

NAMES: Final = st.text(st.characters(), max_size=8)  # lone surrogates too
ROWS: Final = st.lists(st.none() | st.booleans() | st.integers() | NAMES, max_size=3)
ENTRIES: Final = st.dictionaries(NAMES, st.none() | ROWS | st.builds(Gone, st.integers(0, 2**40), ROWS), max_size=12)


def json_of(piece: Piece) -> str:
    return zlib.decompress(piece.pack()).decode(errors="surrogatepass")


def contents_of(piece: Piece) -> Contents:
    return Contents.of(piece.pack())


class TestFormat:
    def test_records_are_packed_as_this_json(self) -> None:
        entries: dict[str, Entry | None] = {
            "b": ["etag", 1, None],
            "ä\ud83d": ["\ud83d\ude00"],
            "c": Gone(1_700_000_000, [True]),
            'a"': None,
            "a": [],
            "d": Gone(5, []),
        }
        (piece,) = pieces(entries, 10)
        text = (
            '[["a","b","ä\ud83d"],[[],["etag",1,null],["\ud83d\ude00"]],[["c",1700000000,[true]],["d",5,[]]],["a\\""]]'
        )
        assert json_of(piece) == text
        assert (piece.low, piece.until) == ("a", 1_700_000_000)

    def test_without_records_there_is_no_piece(self) -> None:
        assert pieces({}, 10) == []

    def test_surrogates_are_not_joined(self) -> None:
        value = {"\ud83d\ude00": "\ud83d", "😀": ["\ude00", "ä", 1.5, None]}
        assert unpack(pack(value)) == value
        assert zlib.decompress(pack(["ä", "\ud83d"])) == b'["\xc3\xa4","\xed\xa0\xbd"]'

    @given(ENTRIES)
    def test_unpacked_contents_equal_the_packed_records(self, entries: dict[str, Entry | None]) -> None:
        found: dict[str, Entry] = {}
        removed: list[str] = []
        for piece in pieces(entries, 4):
            contents = contents_of(piece)
            assert piece.low == min([*contents.entries(), *contents.removed])
            assert piece.until == max((gone.until for gone in contents.gone.values()), default=0)
            assert contents.names == sorted(contents.names)
            assert {name: contents.find(name) for name in contents.entries()} == contents.entries()
            assert all(contents.find(name) is None for name in contents.removed)
            found |= contents.entries()
            removed += contents.removed
        assert found == {name: entry for name, entry in entries.items() if entry is not None}
        assert all(isinstance(found[name], Gone) == isinstance(entry, Gone) for name, entry in entries.items() if entry)
        assert removed == sorted(name for name, entry in entries.items() if entry is None)

    @given(ENTRIES, ENTRIES)
    def test_changes_apply_to_packed_records(
        self, entries: dict[str, Entry | None], changes: dict[str, Entry | None]
    ) -> None:
        contents = Contents([], [], {}, [])
        for piece in pieces(entries, 100):
            contents = contents_of(piece)
        names, rows = contents.files(changes)
        assert names == sorted(names)
        expected = {name: entry for name, entry in {**entries, **changes}.items() if is_file(entry)}
        assert dict(zip(names, rows, strict=True)) == expected


class TestDivision:
    @pytest.mark.parametrize("size", [1, 7, 8, 9, 10, 100, 1000])
    def test_a_piece_has_a_maximum_number_of_records(self, size: int) -> None:
        entries: dict[str, Entry | None] = {f"{number:04}": [number] for number in range(size)}
        found = pieces(entries, 8)
        counts = [len(piece.names) for piece in found]
        assert sum(counts) == size
        assert max(counts) <= 8
        assert len(found) == (1 if size <= 8 else -(-size * 10 // 72))  # 8 records, or 7.2 where there are more
        assert max(counts) - min(counts) <= 1
        assert [name for piece in found for name in contents_of(piece).names] == sorted(entries)

    def test_removed_records_count_too(self) -> None:
        entries: dict[str, Entry | None] = {"a": [1], "b": None, "c": Gone(1, [2])}
        assert [piece.low for piece in pieces(entries, 1)] == ["a", "b", "c"]
        assert [piece.low for piece in pieces(entries, 3)] == ["a"]

    def test_names_of_1024_bytes_stay_far_below_the_size_of_an_item(self) -> None:
        chance = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        names = ["".join(chance.choices(letters, k=1024)) for _ in range(2000)]
        found = pieces({name: [name[:32], 4096] for name in names}, SEGMENT_ROWS)
        assert all(len(json_of(piece)) < 260_000 for piece in found)
        weights = [piece.weight for piece in found]
        assert len(found) == 10  # 2.1 MB of JSON
        assert max(weights) - min(weights) < 0.01
        assert [name for piece in found for name in contents_of(piece).names] == sorted(names)

    def test_one_heavy_record_among_many_does_not_exceed_the_limit(self) -> None:
        entries: dict[str, Entry | None] = {f"{number:03}": ["x" * 100] for number in range(500)}
        entries["250"] = ["y" * 200_000]
        found = pieces(entries, SEGMENT_ROWS)
        assert max(piece.weight for piece in found) <= 1 + 1e-6
        assert [name for piece in found for name in contents_of(piece).names] == sorted(entries)

    @pytest.mark.parametrize("sizes", [(100_000, 200_000), (200_000, 100_000), (60_000, 150_000, 150_000)])
    def test_a_record_that_does_not_fit_begins_a_new_piece(self, sizes: tuple[int, ...]) -> None:
        entries: dict[str, Entry | None] = {f"{at}": ["x" * size] for at, size in enumerate(sizes)}
        found = pieces(entries, SEGMENT_ROWS)
        assert all(len(json_of(piece)) < 260_000 for piece in found)
        assert sum(len(piece.names) for piece in found) == len(sizes)
