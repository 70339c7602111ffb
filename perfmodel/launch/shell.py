"""Launch scripts as commands: words, variables and arrays of a shell, and the flags among the words."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.launch.tables import Flag, Table

__all__ = ["Command", "commands", "read_command"]

_SEPARATORS = frozenset(";&|\n()<>")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?(?:\[[@*]\])?\}|\$(\w+)")
_ASSIGNED = re.compile(r"(\w+)\+?=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command: values by the name of the flag, words that belong to no flag, flags that carry nothing for us."""

    values: dict[str, Any]
    words: tuple[str, ...]
    ignored: tuple[str, ...]


def commands(text: str, label: str) -> list[list[str]]:
    """The words of every command of a script, its variables and arrays put in; raises `SpecError` for an open quote."""
    variables: dict[str, list[str]] = {}
    found = []
    for words in _split(_tokens(text, label)):
        expanded = [part for word in words for part in _expanded(word, variables)]
        while expanded and (assigned := _ASSIGNED.fullmatch(expanded[0])) and not expanded[0].startswith("-"):
            name, first = assigned.groups()
            if words[0].endswith("=(") or len(expanded) == 1:
                values = [*([first] if first else []), *expanded[1:]]
                grown = variables.get(name, []) if "+=" in expanded[0] else []
                variables[name] = grown + [part for value in values for part in _words_in(value)]
                expanded = []
            else:  # NAME=value before a command holds for that command
                expanded = expanded[1:]
        if expanded:
            found.append(expanded)
    return found


def _tokens(text: str, label: str) -> list[str]:
    joined = re.sub(r"\\\r?\n", " ", text)
    bare = re.sub(r"^\s*#.*$", "", joined, flags=re.MULTILINE)
    lexer = shlex.shlex(bare, posix=True, punctuation_chars=";&|\n()<>")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise SpecError(f"{label}: not a shell script: {str(error).lower()}") from None


def _split(tokens: list[str]) -> list[list[str]]:
    """Tokens cut at line ends and operators; the words of `NAME=( ... )` stay together as `NAME=(` and its words."""
    found: list[list[str]] = [[]]
    inside = commented = False
    for token in tokens:
        if token and set(token) <= _SEPARATORS:
            commented = commented and "\n" not in token
            if token.startswith("(") and found[-1] and found[-1][-1].endswith("=") and not inside:
                inside, found[-1][-1] = True, found[-1][-1] + "("
            elif inside:
                inside = ")" not in token
                if not inside:
                    found.append([])
            else:
                found.append([])
        elif token.startswith("#"):
            commented = True
        elif not commented:
            found[-1].append(token)
    return [words for words in found if words]


def _expanded(word: str, variables: dict[str, list[str]]) -> list[str]:
    whole = _VARIABLE.fullmatch(word)
    if whole and (whole[1] or whole[3]) in variables:
        return variables[whole[1] or whole[3]]
    if word.endswith("=("):
        return [word[:-1]]

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return " ".join(variables[name]) if name in variables else match[2] or match[0]

    return [_VARIABLE.sub(value, word)]


def _words_in(value: str) -> list[str]:
    # A quoted string of flags is one word of its assignment and many where it is used.
    if not re.search(r"\s", value.strip()) or value.lstrip().startswith("{"):
        return [value]
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def read_command(words: list[str], table: Table, label: str) -> Command:
    """The flags among words; raises `SpecError` for one that the table does not know, `PlanError` for a wrong value."""
    values: dict[str, Any] = {}
    free: list[str] = []
    ignored: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            free.append(word)
            continue
        name, equals, inline = word.partition("=")
        flag = table.found(name, label)
        taken = [inline] if equals else []
        if flag is None:
            while not equals and rest and not _is_flag(rest[0]):
                taken.append(rest.pop(0))
            ignored.append(" ".join([name, *taken]))
            continue
        if flag.type != "switch" and not equals:
            while rest and not _is_flag(rest[0]) and (flag.type == "texts" or not taken):
                taken.append(rest.pop(0))
        values[flag.name] = _value(flag, taken, label)
        if not flag.carries:
            ignored.append(" ".join([name, *taken]))
    return Command(values, tuple(free), tuple(ignored))


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not re.fullmatch(r"-[\d.].*", word)


def _value(flag: Flag, taken: list[str], label: str) -> Any:
    if flag.type == "switch":
        return True
    if not taken:
        raise SpecError(f"{label}: {flag.name}: has no value")
    if flag.type == "texts":
        return flag.checked(taken, label)
    readers: dict[str, Callable[[str], Any]] = {"whole": int, "fraction": float, "json": json.loads}
    try:
        value = readers.get(flag.type, str)(taken[0])
    except ValueError:
        kind = {"whole": "a whole number", "fraction": "a number", "json": "JSON"}[flag.type]
        raise SpecError(f"{label}: {flag.name}: must be {kind} (got {taken[0]!r})") from None
    return flag.checked(value, label)
