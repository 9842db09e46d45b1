"""Condition and update expressions of DynamoDB, compiled to functions of an item. Each expression is compiled once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from botocore.exceptions import ClientError
from moto.dynamodb.parsing.reserved_keywords import ReservedKeywords

Item = dict[str, Any]
Names = Mapping[str, str]
Condition = Callable[[Mapping[str, Any], Names, Mapping[str, Any]], bool]
Operand = Callable[[Mapping[str, Any], Names, Mapping[str, Any]], Any]

ABSENT: Final = object()
"""The value of an attribute that an item does not have."""
_TOKEN: Final = re.compile(r"\s*([#:]?[A-Za-z_][A-Za-z0-9_]*|<>|<=|>=|[=<>(),+-])")
_RESERVED: Final = frozenset(word.upper() for word in ReservedKeywords.get_reserved_keywords())


class ValidationError(AssertionError):
    """The request is invalid, which is a defect of the caller. DynamoDB would answer ValidationException."""


def client_error(code: str, operation: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message or code}}, operation)


class _Parser:
    """Compiles a condition or an update expression to functions of (item, names, values)."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        text = text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValidationError(f"unexpected {text[at:]!r} in {text!r}")
            self._tokens.append(match[1])
            at = match.end()
        self._at = 0
        self.used: set[str] = {token for token in self._tokens if token[0] in "#:"}

    def condition(self) -> Condition:
        test = self._or()
        self._end()
        return test

    def _or(self) -> Condition:
        tests = [self._and()]
        while self._take("OR"):
            tests.append(self._and())
        return tests[0] if len(tests) == 1 else lambda i, n, v: any(test(i, n, v) for test in tests)

    def _and(self) -> Condition:
        tests = [self._not()]
        while self._take("AND"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda i, n, v: all(test(i, n, v) for test in tests)

    def _not(self) -> Condition:
        if self._take("NOT"):
            test = self._not()
            return lambda i, n, v: not test(i, n, v)
        if self._take("("):
            test = self._or()
            self._expect(")")
            return test
        return self._comparison()

    def _comparison(self) -> Condition:
        word = self._peek()
        if word in ("attribute_exists", "attribute_not_exists", "begins_with"):
            self._at += 1
            self._expect("(")
            path = self._path()
            if word == "begins_with":
                self._expect(",")
                start = self._operand()
                self._expect(")")
                return lambda i, n, v: isinstance(t := path(i, n, v), str) and t.startswith(start(i, n, v))
            self._expect(")")
            return lambda i, n, v: (path(i, n, v) is not ABSENT) == (word == "attribute_exists")
        left = self._operand()
        if self._take("IN"):
            self._expect("(")
            choices = [self._operand()]
            while self._take(","):
                choices.append(self._operand())
            self._expect(")")
            return lambda i, n, v: any(_equal(left(i, n, v), choice(i, n, v)) for choice in choices)
        sign = self._next()
        right = self._operand()
        return lambda i, n, v: _compare(sign, left(i, n, v), right(i, n, v))

    def update(self) -> list[tuple[str, Operand, Operand]]:
        """Return the clause, the attribute name and the value of each action."""
        actions: list[tuple[str, Operand, Operand]] = []
        clauses = {"SET", "REMOVE", "ADD"}
        while self._at < len(self._tokens) or not actions:
            clause = self._next()
            if clause not in clauses:
                raise ValidationError(f"unknown or repeated clause of an update: {clause!r}")
            clauses.remove(clause)
            while True:
                name = self._name()
                value: Operand = lambda _i, _n, _v: None  # noqa: E731
                if clause == "SET":
                    self._expect("=")
                    value = self._sum()
                elif clause == "ADD":
                    value = self._operand()
                actions.append((clause, name, value))
                if not self._take(","):
                    break
        return actions

    def _sum(self) -> Operand:
        left = self._operand()
        if self._take("+"):
            right = self._operand()
            return lambda i, n, v: _number(left(i, n, v)) + _number(right(i, n, v))
        if self._take("-"):
            right = self._operand()
            return lambda i, n, v: _number(left(i, n, v)) - _number(right(i, n, v))
        return left

    def _operand(self) -> Operand:
        token = self._peek()
        if token.startswith(":"):
            self._at += 1
            return lambda _i, _n, v: v[token]
        if token == "if_not_exists":
            self._at += 1
            self._expect("(")
            path = self._path()
            self._expect(",")
            other = self._operand()
            self._expect(")")
            return lambda i, n, v: other(i, n, v) if (found := path(i, n, v)) is ABSENT else found
        return self._path()

    def _path(self) -> Operand:
        name = self._name()
        return lambda i, n, v: i.get(name(i, n, v), ABSENT)

    def _name(self) -> Operand:
        token = self._next()
        if token.startswith("#"):
            return lambda _i, n, _v: n[token]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", token):
            raise ValidationError(f"invalid attribute name: {token!r}")
        if token.upper() in _RESERVED:
            raise ValidationError(f"reserved word as an attribute name: {token!r}")
        return lambda _i, _n, _v: token

    def _peek(self) -> str:
        if self._at >= len(self._tokens):
            raise ValidationError("unexpected end of the expression")
        return self._tokens[self._at]

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise ValidationError(f"expected {token!r}, got {self._tokens[self._at :]}")

    def _end(self) -> None:
        if self._at != len(self._tokens):
            raise ValidationError(f"unexpected {self._tokens[self._at :]}")


def _number(value: Any) -> Decimal:
    if not isinstance(value, Decimal):
        raise client_error("ValidationException", "UpdateItem", "an operand is not a number")
    return value


def _equal(left: Any, right: Any) -> bool:
    return left is not ABSENT and right is not ABSENT and type(left) is type(right) and bool(left == right)


def _compare(sign: str, left: Any, right: Any) -> bool:
    if sign == "=":
        return _equal(left, right)
    if sign == "<>":
        return not _equal(left, right)
    if left is ABSENT or right is ABSENT or type(left) is not type(right):
        return False
    if sign not in ("<", "<=", ">", ">="):
        raise ValidationError(f"unknown comparison: {sign!r}")
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign])


_conditions: dict[str, tuple[Condition, frozenset[str]]] = {}
_updates: dict[str, tuple[list[tuple[str, Operand, Operand]], frozenset[str]]] = {}


def condition_of(text: str) -> tuple[Condition, frozenset[str]]:
    """Return a compiled condition and its placeholders."""
    if text not in _conditions:
        parser = _Parser(text)
        _conditions[text] = parser.condition(), frozenset(parser.used)
    return _conditions[text]


def update_of(text: str) -> tuple[list[tuple[str, Operand, Operand]], frozenset[str]]:
    """Return the actions of an update expression and its placeholders."""
    if text not in _updates:
        parser = _Parser(text)
        _updates[text] = parser.update(), frozenset(parser.used)
    return _updates[text]


def check_used(used: frozenset[str], names: Names, values: Mapping[str, Any]) -> None:
    """Raise ValidationError unless the names and values of a request are exactly the used placeholders."""
    if used != names.keys() | values.keys():
        raise ValidationError(f"placeholders {sorted({*names, *values})} do not match {sorted(used)}")


def updated(
    key: tuple[str, str],
    old: Item | None,
    actions: Sequence[tuple[str, Operand, Operand]],
    names: Names,
    values: Mapping[str, Any],
) -> Item:
    """Return a new version of an item, or a new item, with the actions of an update applied."""
    before = old or {}
    new: Item = dict(before) if old is not None else {"pk": key[0], "sk": key[1]}
    named = [name_of(before, names, values) for _, name_of, _ in actions]
    if len(set(named)) != len(named):
        raise ValidationError(f"an update names an attribute twice: {named}")
    for clause, name_of, value_of in actions:
        name = name_of(before, names, values)
        if name in ("pk", "sk"):
            raise ValidationError(f"an update of the key attribute {name}")
        if clause == "REMOVE":
            new.pop(name, None)
        elif clause == "SET":
            value = value_of(before, names, values)
            if value is ABSENT:
                raise client_error("ValidationException", "UpdateItem", "an operand does not exist")
            new[name] = value
        else:
            amount, present = value_of(before, names, values), before.get(name)
            if isinstance(amount, Decimal) and (present is None or isinstance(present, Decimal)):
                new[name] = (present or Decimal(0)) + amount
            elif isinstance(amount, frozenset) and (present is None or isinstance(present, frozenset)):
                new[name] = (present or frozenset()) | amount
            else:
                raise client_error("ValidationException", "UpdateItem", "ADD takes numbers and sets")
    return new
