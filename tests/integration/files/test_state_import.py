"""Files: `syncline state import` imports only files that exist at the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import pytest

from syncline.cli.context import Context
from syncline.cli.deployment import Deployment
from syncline.cli.output import Output
from syncline.kinds.files import state_csv
from syncline.kinds.files.cli import state as command_state
from tests.rig.files import _SECRETS, MODE, SYNC, FilesChain

CONTENT: Final = {f"{number:02}": b"%d" % number * (number + 1) for number in range(30)}


class Stack:
    """The stack of the command: the state and the table of the chain."""

    name = "the stack of the tests"
    local = False
    environ: Final = _SECRETS

    def __init__(self, chain: FilesChain) -> None:
        self.state, self.table, self.queues = chain.state, chain.table, chain.queues

    dependencies = Deployment.dependencies

    def client(self, service: str) -> Any:
        raise AssertionError(f"nothing is asked of {service}")


def import_sheet(chain: FilesChain, folder: Path, rows: list[state_csv.CsvRow]) -> Mapping[str, Any]:
    """Run `syncline state import`; return its output with --json."""
    sheet = folder / "state.csv"
    sheet.write_text("".join(state_csv.written(rows)))
    return command(chain, "import", sheet)


def command(chain: FilesChain, action: str, sheet: Path) -> Mapping[str, Any]:
    context = Context(None, None, Output(as_json=True))
    context.__dict__["deployment"] = cast("Deployment", Stack(chain))
    return command_state.state(context, action, SYNC, sheet, None, reports=False).value


def exported_modes(chain: FilesChain, folder: Path) -> dict[str, str]:
    """Return the permissions by path, as `syncline state export` writes them."""
    command(chain, "export", folder / "exported.csv")
    with (folder / "exported.csv").open(newline="") as lines:
        return {each.file_path: each.permissions for each in state_csv.read(lines)}


def row(chain: FilesChain, key: str, **changes: str) -> state_csv.CsvRow:
    """Return the row of a sent file in the CSV file of the replaced service."""
    stored = chain.manager.files.get(f"/data/{key}")
    number = "" if stored is None else stored.internal_id
    size = str(len(CONTENT[key]))
    return replace(
        state_csv.CsvRow(f"/data/{key}", MODE, size, "text/plain", "2099-01-01T00:00:00Z", number), **changes
    )


@pytest.fixture
def filled(chain: FilesChain) -> FilesChain:
    chain.configure()
    for key, content in CONTENT.items():
        chain.upload(key, content)
    return chain


def test_files_absent_at_the_target_are_not_imported(filled: FilesChain, tmp_path: Path) -> None:
    rows = [row(filled, key, internal_id=f"id-{key}") for key in CONTENT]
    assert import_sheet(filled, tmp_path, rows)["taken"] == 0
    assert filled.known() == set()
    run = filled.run()
    assert (run.counts.moved, run.counts.skipped) == (len(CONTENT), 0)
    filled.check()


@pytest.mark.parametrize("with_ids", [True, False])
def test_files_at_the_target_are_imported_and_not_sent_again(
    filled: FilesChain, tmp_path: Path, *, with_ids: bool
) -> None:
    for key, content in CONTENT.items():
        filled.manager.put(f"/data/{key}", content)
    rows = [row(filled, key, **({} if with_ids else {"internal_id": ""})) for key in CONTENT]
    assert import_sheet(filled, tmp_path, rows)["taken"] == len(CONTENT)
    run = filled.run()
    assert (run.counts.skipped, run.counts.queued) == (len(CONTENT), 0)
    assert filled.manager.received == 0
    filled.check()


def test_only_the_files_at_the_target_are_imported(filled: FilesChain, tmp_path: Path) -> None:
    """One file is absent, one has another size, and one was replaced later and so has another ID."""
    for key, content in CONTENT.items():
        filled.manager.put(f"/data/{key}", content)
    rows = [row(filled, key) for key in CONTENT]
    del filled.manager.files["/data/05"]
    filled.manager.put("/data/06", b"longer than what the sheet says of it")
    del filled.manager.files["/data/07"]
    filled.manager.put("/data/07", CONTENT["07"].replace(b"7", b"8"))
    foreign = {key: filled.manager.files[f"/data/{key}"] for key in ("06", "07")}
    assert import_sheet(filled, tmp_path, rows)["taken"] == len(CONTENT) - 3

    run = filled.run()
    assert filled.manager.files["/data/05"].content == CONTENT["05"]
    assert {key: filled.ended(run, key) for key in ("05", "06", "07")} == {
        "05": "moved",
        "06": "FILE_DIFFERS",
        "07": "FILE_DIFFERS",
    }
    assert {key: filled.manager.files[f"/data/{key}"] for key in foreign} == foreign
    assert run.counts.skipped == len(CONTENT) - 3


def test_an_imported_file_may_be_replaced_when_its_object_changes(filled: FilesChain, tmp_path: Path) -> None:
    """The import verified the file, so it is ours."""
    for key, content in CONTENT.items():
        filled.manager.put(f"/data/{key}", content)
    import_sheet(filled, tmp_path, [row(filled, key) for key in CONTENT])
    filled.upload("03", b"changed since")
    run = filled.run()
    assert (run.counts.moved, run.counts.conflict) == (1, 0)
    filled.check()


@pytest.mark.parametrize("mode", ["777", "<script>", "rwsr-xr-xx"])
def test_invalid_permissions_are_not_imported(filled: FilesChain, tmp_path: Path, mode: str) -> None:
    """The row is refused, or the permissions are read at the target; invalid ones are never stored."""
    filled.manager.strict_modes = True
    for key, content in CONTENT.items():
        filled.manager.put(f"/data/{key}", content)
    rows = [row(filled, key, **({"permissions": mode} if key == "03" else {})) for key in CONTENT]
    import_sheet(filled, tmp_path, rows)
    assert set(exported_modes(filled, tmp_path).values()) == {MODE}
    filled.upload("03", b"changed since")
    run = filled.run()
    assert run.counts.failed == 0
    filled.check()


def test_rows_outside_the_target_are_named(
    filled: FilesChain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.run()
    rows = [row(filled, "00"), *(replace(row(filled, "01"), file_path=f"/elsewhere/{n}") for n in range(7))]
    sheet = tmp_path / "state.csv"
    sheet.write_text("".join(state_csv.written(rows)))
    assert command(filled, "import", sheet)["outside"] == 7
    context = Context(None, None, Output())
    context.__dict__["deployment"] = cast("Deployment", Stack(filled))
    command_state.state(context, "import", SYNC, sheet, None, reports=False)
    message = "7 rows are not files of files below /data/, left out: /elsewhere/0, /elsewhere/1, /elsewhere/2"
    assert message.replace("files of files", f"files of {SYNC}") in capsys.readouterr().out
