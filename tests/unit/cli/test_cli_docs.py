"""``docs/reference/commands.md`` documents all commands and options."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from syncline.cli.main import app
from syncline.errors import CODES
from tests.unit.cli.cli_stack import ROOT

PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+).*?$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SHARED = {"--stack", "--home", "--json", "--help"}
GROUP: Any = get_command(app)
ALL = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
COMMANDS = sorted(name for name, command in ALL.items() if not hasattr(command, "commands"))
GROUPS = {name: sorted(command.commands) for name, command in ALL.items() if hasattr(command, "commands")}


def test_each_command_has_a_section() -> None:
    assert sorted(SECTIONS) == sorted(ALL)


@pytest.mark.parametrize(("group", "command"), [(group, each) for group, names in GROUPS.items() for each in names])
def test_each_option_of_a_group_is_documented_on_its_page(group: str, command: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{group}.md").read_text(encoding="utf-8")
    assert f"`{command}" in page
    shown = CliRunner().invoke(app, [group, command, "--help"], env={"COLUMNS": "200"}).stdout
    options = set(re.findall(r"(--[a-z][a-z-]+)", shown)) - {"--help"}
    assert options
    assert not [option for option in options if f"`{option}" not in page]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_documented(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).stdout
    options = set(re.findall(r"^  .*?(--\w+)", shown, re.MULTILINE))
    assert options >= SHARED
    assert all(f"`{option}" in SECTIONS[command] for option in options - SHARED)


def test_the_shared_options_are_documented() -> None:
    assert all(f"`{option}" in PAGE for option in SHARED - {"--help"})


def test_codes_in_the_examples_exist_with_the_shown_action() -> None:
    codes = re.findall(r"^error ([A-Z_]+):.*\n(?:  .*\n)*→ (.*)$", PAGE, re.MULTILINE)
    assert codes
    for code, action in codes:
        assert CODES[code].action == action
