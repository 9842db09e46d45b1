"""Checks of the soak: it finds secrets, growth and differences, and stand-ins keep their content after a kill."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from tests.soak.durable import Durable, RequestCounter, read
from tests.soak.judge import _compared
from tests.soak.watch import ALLOWED_BYTES, Sample, Search, growth

SECRET: Final = "pl4nted/s3cret+of=the;soak"


@pytest.mark.parametrize("user", ["", "a", "ab", "robot:", "x-access-token:"])
def test_a_secret_is_found_in_every_encoding(user: str) -> None:
    written = [
        f"{user}{SECRET}".encode(),
        quote(f"{user}{SECRET}", safe="").encode(),
        base64.b64encode(f"{user}{SECRET}".encode()),
        base64.b64encode(f"{user}{SECRET}and more".encode()),
        base64.urlsafe_b64encode(f"{user}{SECRET}".encode()),
        f"{user}{SECRET}".encode().hex().encode(),
    ]
    for each in written:
        search = Search({"planted": SECRET})
        search.text("the log", b'{"header": "' + each + b'"}')
        assert search.found == {"planted in the log"}, each
    search = Search({"planted": SECRET})
    search.text("the log", SECRET[:-9].encode())
    assert search.found == set()


def test_a_secret_across_two_chunks_of_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "engine.log"
    file.write_bytes(b"x" * ((1 << 20) - 5) + SECRET.encode() + b"x" * 99)
    search = Search({"planted": SECRET})
    search.file(file)
    assert search.found == {"planted in engine.log"}


def test_a_growing_figure_is_not_flat() -> None:
    def samples(grows: int) -> list[Sample]:
        return [Sample(float(at), 100 << 20, 100 << 20, 3, (100 << 20) + at * grows, 0) for at in range(0, 600, 10)]

    assert all(each.flat for each in growth(samples(0), 600))
    assert [each.name for each in growth(samples(ALLOWED_BYTES["disk"] // 50), 600) if not each.flat] == ["disk"]


def test_a_figure_that_grows_with_the_rows_of_the_table_is_flat() -> None:
    def samples(row: int) -> list[Sample]:
        rows = [at * 100 for at in range(0, 600, 10)]
        return [
            Sample(float(at), 1 << 27, 1 << 27, 3, (1 << 27) + n * row, 0, n)
            for at, n in zip(range(0, 600, 10), rows, strict=True)
        ]

    assert all(each.flat for each in growth(samples(1 << 10), 600))
    assert not all(each.flat for each in growth(samples(4 << 10), 600))


def test_differences_are_named() -> None:
    source, target = {"a": b"1", "b": b"2", "c": b"3"}, {"b": b"2", "c": b"4", "d": b"5"}
    assert list(_compared("file", source, target)) == [
        "file 'a' is not at the target",
        "file 'd' is only at the target",
        "file 'c' differs",
    ]


def test_a_durable_dictionary_keeps_its_content_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "files"
    kept = Durable(file)
    kept["a"], kept["b"], kept["c"] = 1, 2, 3
    kept["moved"] = kept.pop("a")
    del kept["b"]
    kept.commit()
    kept["never"] = "committed"
    assert read(file) == {"moved": 1, "c": 3}
    with file.open("ab") as journal:
        journal.write(b"\x80\x04\x95")  # cut off by a kill
    again = Durable(file)
    assert dict(again) == {"moved": 1, "c": 3}
    again["d"] = 4
    again.commit()
    assert read(file) == {"moved": 1, "c": 3, "d": 4}


def test_a_tally_counts_without_keeping_its_entries(tmp_path: Path) -> None:
    tally = RequestCounter(tmp_path / "requests")
    for each in range(3):
        tally.append(each)
    assert (len(tally), (tmp_path / "requests").stat().st_size) == (0, 3)
