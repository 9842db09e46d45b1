"""Make the mutants of a module: copies of its source with one small fault each.

mutmut makes them. These are left out because they need no test: texts for people (strings with a space, parts of
f-strings), strings that differ only in case, faults that the type checker finds (None for a value, a missing positional
argument), calls of the logger, and the arguments in `_NO_BEHAVIOUR`. Only the bodies of functions are mutated: the
fields of a class and the defaults of parameters are not.
"""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Final

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, create_mutations

_NO_BEHAVIOUR: Final = frozenset({"digest_size", "strict", "thread_name_prefix"})
"""Keyword arguments whose value has no observable effect."""
_IS_FUNCTION: Final = 0x01  # CO_OPTIMIZED, absent from the code of a class or module


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed function: the qualified name and first line of the outermost one, and the lines of the statement."""

    line: int
    lines: range
    function: tuple[str, int]
    diff: str
    code: CodeType


def mutants_of(
    path: Path, wanted: Container[int] | None = None, sample: int | None = None, seed: int | None = None
) -> tuple[list[Mutant], int]:
    """Return the mutants whose change begins in one of the `wanted` lines, and their total number.

    With `sample`, return only that many. The choice depends on the source and on `seed` alone.
    """
    source = _undecorated(path.read_text())
    module, mutations, _, _ = create_mutations(str(path), source)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    excluded = {part for node in _walk(module) if _is_excluded(node) for part in _walk(node)}
    functions = {mutation.contained_by_top_level_function for mutation in mutations}
    bodies = {part for each in functions if isinstance(each, cst.FunctionDef) for part in _walk(each.body)}
    spans = _spans(source)
    found: list[tuple[int, Mutation]] = []
    for mutation in mutations:
        node, line = mutation.original_node, positions[mutation.original_node].start.line
        if wanted is not None and line not in wanted:
            continue
        if node in bodies and node not in excluded and _needs_a_test(node, mutation.mutated_node):
            found.append((line, mutation))
    number = len(found)
    if sample is not None and number > sample:
        rng = random.Random(path.name if seed is None else f"{path.name} {seed}")
        found = [found[at] for at in sorted(rng.sample(range(number), sample))]
    before = _functions_of(compile(source, str(path), "exec"))
    made = [_mutant(path, module, mutation, line, spans, before) for line, mutation in found]
    return [mutant for mutant in made if mutant is not None], number


def _undecorated(source: str) -> str:
    """Return a source with the decorators of classes commented out: mutmut skips the methods of decorated classes."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                for at in range(decorator.lineno - 1, decorator.end_lineno or decorator.lineno):
                    lines[at] = f"#{lines[at]}"
    return "".join(lines)


def _functions_of(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """Return the outermost functions of a module and of its classes, by name and first line."""
    found = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & _IS_FUNCTION:
                found[inner.co_qualname, inner.co_firstlineno] = inner
            else:
                found |= _functions_of(inner)
    return found


def _is_excluded(node: cst.CSTNode) -> bool:
    """Return True if nothing within a node is mutated."""
    if isinstance(node, cst.Arg):
        return node.keyword is not None and node.keyword.value in _NO_BEHAVIOUR
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        return isinstance(node.func.value, cst.Name) and node.func.value.value == "logger"
    return isinstance(node, cst.FormattedString)


def _needs_a_test(node: cst.CSTNode, mutated: cst.CSTNode) -> bool:
    if isinstance(node, cst.SimpleString):
        assert isinstance(mutated, cst.SimpleString)
        return " " not in node.value and "XX" in mutated.value
    if isinstance(node, cst.Assign | cst.AnnAssign):
        return False
    if isinstance(node, cst.Call) and isinstance(mutated, cst.Call) and mutated.func is node.func:
        if len(mutated.args) == len(node.args):
            return False  # None in place of an argument
        (removed,) = [argument for argument in node.args if argument not in mutated.args]
        return removed.keyword is not None and not _is_excluded(removed)
    return True


def _mutant(
    path: Path,
    module: cst.Module,
    mutation: Mutation,
    line: int,
    spans: dict[int, range],
    before: dict[tuple[str, int], CodeType],
) -> Mutant | None:
    """Return None if the change is not valid code, or has no effect, such as an annotation of a local name."""
    changed = module.deep_replace(mutation.original_node, mutation.mutated_node)
    assert isinstance(changed, cst.Module)
    try:
        whole = compile(changed.code, str(path), "exec")
    except SyntaxError:
        return None
    for name, code in _functions_of(whole).items():
        if name in before and code != before[name]:
            diff = difflib.unified_diff(module.code.splitlines(), changed.code.splitlines(), lineterm="", n=0)
            shown = "\n".join(each for each in list(diff)[3:])
            return Mutant(line, spans.get(line, range(line, line + 1)), name, shown, code)
    return None


def _spans(source: str) -> dict[int, range]:
    """Return the lines of the innermost statement for each line; for a compound statement, the lines of its head."""
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):  # outer statements first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            end = (node.end_lineno or node.lineno) + 1
            if isinstance(body, list):
                end = max(node.lineno + 1, body[0].lineno if hasattr(body[0], "lineno") else body[0].pattern.lineno)
            lines = range(node.lineno, end)
            found.update(dict.fromkeys(lines, lines))
    return found


def _walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _walk(child)
