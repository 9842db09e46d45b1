"""``completion`` and ``man``, checked by the shells and by man(1) themselves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_group

from syncline.cli.command_tree import command_tree
from syncline.cli.main import app
from syncline.cli.man_page import page
from syncline.kinds.table import KINDS
from tests.standins.programs import wants
from tests.unit.cli.cli_stack import ROOT, in_process

TREE: Final = command_tree(get_group(app))
Complete = Callable[[str], list[str]]

BASH: Final = """
source {script}
complete -p syncline >/dev/null || exit 9
IFS=$'\\n' read -r -d '' -a COMP_WORDS <<< {words}
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
[[ ${{COMP_WORDS[COMP_CWORD]}} == @ ]] && COMP_WORDS[COMP_CWORD]=''
_syncline
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# Outside of an interactive shell there is nothing to complete, so what the script would offer is printed.
ZSH: Final = """
compdef() {{ :; }}
_describe() {{ print -l -- "${{(P@)@[-1]%%:*}}"; }}
_files() {{ print -l -- *(N); }}
source {script}
words=("${{(@f)$(<<< {words})}}") CURRENT=${{#words}}
[[ ${{words[CURRENT]}} == @ ]] && words[CURRENT]=''
_syncline || true
"""
FISH: Final = "source {script}; complete -C {line}"


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """Return a function that completes a line in a real shell, in a folder with the file ``syncs.yaml``."""
    shell = request.param
    program = wants(shutil.which(shell), f"needs {shell}", ci_has_it=True)
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "syncs.yaml").touch()
    home = tmp_path / "home"
    home.mkdir()
    (home / "applied.json").write_text(json.dumps([{"name": "prod"}, {"name": "night"}]))
    command = tmp_path / "bin" / "syncline"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m syncline.cli.main "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(in_process("completion", shell).stdout)
    environment = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "layers" / "syncline"),
        "SYNCLINE_HOME": str(home),
        "HOME": str(tmp_path),
    }

    def completed(line: str) -> list[str]:
        words = shlex.quote("\n".join([*line.split(), *(["@"] if line.endswith(" ") else [])]))
        form = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
        text = form.format(script=shlex.quote(str(script)), words=words, line=shlex.quote(line))
        quiet = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run(
            [program, *quiet, "-c", text],
            cwd=folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        prefix = line.rpartition(" ")[2]
        shown = [each.partition("\t")[0] for each in done.stdout.splitlines()]
        # zsh filters by the prefix itself.
        return (
            sorted(each for each in shown if each.startswith(prefix)) if shell == "zsh" else sorted(filter(None, shown))
        )

    return completed


def test_commands_and_options_are_completed(complete: Complete) -> None:
    assert complete("syncline re") == ["report", "restore", "resume", "retry"]
    assert complete("syncline run --al") == ["--all", "--allow-removals"]
    assert complete("syncline artifacts ret") == ["retag"]
    assert complete("syncline artifacts daemon --onc") == ["--once"]


def test_names_of_syncs_are_completed(complete: Complete) -> None:
    assert complete("syncline run p") == ["prod"]
    assert complete("syncline run --wait n") == ["night"]
    assert complete("syncline history ") == ["night", "prod"]


def test_names_need_no_engine_and_print_no_error(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "home" / "applied.json").write_text("{")
    assert complete("syncline run p") == []
    (tmp_path / "home" / "applied.json").unlink()
    assert complete("syncline run p") == []


def test_values_and_files_are_completed(complete: Complete) -> None:
    assert complete("syncline report --format ") == ["csv", "html", "text"]
    assert complete("syncline report prod --format h") == ["html"]
    assert complete("syncline completion ba") == ["bash"]
    assert complete("syncline explain TAG_") == ["TAG_DIFFERS"]
    assert complete("syncline init tok") == ["tokens"]
    assert complete("syncline apply sync") == ["syncs.yaml"]
    assert complete("syncline run --only ") == []


def test_an_argument_with_the_name_of_a_command_is_no_command(complete: Complete) -> None:
    assert complete("syncline report status --ful") == ["--full"]


def test_an_unknown_shell_is_an_error() -> None:
    result = in_process("completion", "tcsh")
    assert result.exit_code == 2
    assert result.stderr.startswith("error USAGE: there is no completion for 'tcsh'; the shells are bash, zsh, fish")


def test_no_names_are_completed_for_a_stack(tmp_path: Path) -> None:
    (tmp_path / "applied.json").write_text(json.dumps([{"name": "prod"}]))
    result = in_process("completion", "names", "--stack", "other", "--home", str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "")


def test_the_manual_page_has_no_warnings(tmp_path: Path) -> None:
    page_file = tmp_path / "syncline.1"
    page_file.write_text(in_process("man").stdout)
    checks = {
        "groff": ["-man", "-Tutf8", "-ww", "-z"],
        "man": ["--warnings", "-l", "-P", "cat"],
        "mandoc": ["-T", "lint", "-W", "error"],
    }
    found = [(program, options) for name, options in checks.items() if (program := shutil.which(name))]
    if not found:
        wants(None, "needs groff, man or mandoc", ci_has_it=True)
    for program, options in found:
        done = subprocess.run(
            [program, *options, str(page_file)], check=False, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), program


def test_the_manual_page_has_each_command_option_and_example() -> None:
    text = "\n".join(page(TREE)).replace("\\-", "-").replace("\\(ti", "~")
    for node in TREE.walk():
        if not node.path or node.commands:
            continue
        assert f'.SS "{" ".join(node.path)}' in text
        assert all(example in text for example in node.examples)
        assert all(name in text for option in node.options for name in option.names)


def test_roff_requests_and_escapes_in_a_text_are_escaped() -> None:
    text = "\n".join(page(command_tree(_group(".TH is text, 'so is this, and \\fB"))))
    assert "\\&.TH is text, 'so is this, and \\efB" in text


def _group(help_text: str) -> object:
    import typer  # noqa: PLC0415

    made = typer.Typer(help=help_text, rich_markup_mode=None, add_completion=False)
    made.command("one", help="One.")(lambda: None)
    made.command("two", help="Two.")(lambda: None)
    return get_group(made)


def test_each_command_has_examples_that_parse() -> None:
    for node in TREE.walk():
        if not node.path or node.commands:
            continue
        assert node.examples, node.path
        for example in node.examples:
            words = shlex.split(example, comments=True)
            words = words[1 : next((at for at, word in enumerate(words) if word in {"<", ">", "|", "&&"}), None)]
            assert words[: len(node.path)] == list(node.path)
            command: Any = get_group(app)
            for name in node.path:
                command = command.get_command(None, name)
            # Raises an exception for an argument or option that the command does not have.
            with command.make_context(" ".join(node.path), words[len(node.path) :]):
                pass


def test_examples_are_shown_by_help() -> None:
    for name in ("run", "report", "state"):
        shown = in_process(name, "--help").stdout
        assert f"  Examples:\n    syncline {name} " in shown


def test_the_kinds_are_completed() -> None:
    assert in_process("completion", "bash").stdout.count(f"words='{' '.join(KINDS)}'") == 1
