"""The `rag-outbox` commands that a page shows: those in its code blocks, and those in its sentences.

A line of a code block may end with a comment. `ends with N` in it says the exit status, which is 0 otherwise.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from operations.cli.app import app

_CODE = re.compile(r"(?:^ {4,}[^\n]*\n?)+|^```\w*\n.*?^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^\s*rag-outbox (?P<command>.+)$", re.MULTILINE)
_INLINE = re.compile(r"`rag-outbox ([^`]+)`")
_USAGE_ERROR: Any = typer.BadParameter.__base__  # click's own class, or, in newer releases of typer, a copy of it
_STATUS = re.compile(r"\bends with (\d)\b")


@dataclass(frozen=True)
class Command:
    """`reads` is the key of the JSON object that a pipe to jq names, or ''."""

    arguments: tuple[str, ...]
    status: int = 0
    reads: str = ""

    def __str__(self) -> str:
        return shlex.join(("rag-outbox", *self.arguments))


def blocks(page: Path) -> Iterator[list[Command]]:
    """The commands of each code block that has any, in order."""
    for block in _CODE.findall(page.read_text()):
        if found := [_parse(line) for line in _LINE.findall(block)]:
            yield found


def inline(page: Path) -> Iterator[Command]:
    """The commands within sentences; one with an ellipsis is none."""
    for found in _INLINE.findall(_CODE.sub("", page.read_text())):
        if "…" not in found:
            yield _parse(" ".join(found.split()))


def find_mistake(command: Command, *, is_whole: bool) -> str | None:
    """What the command line does not take; with `is_whole` also what is missing."""
    arguments = list(command.arguments)
    current: Any = typer.main.get_command(app)
    context = current.context_class(current, info_name="rag-outbox")
    while hasattr(current, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if name not in current.commands:
            return f"there is no command {name}"
        current = current.commands[name]
        context = current.context_class(current, info_name=name, parent=context)
    if hasattr(current, "commands"):
        return None if not is_whole else "a subcommand is missing"
    try:
        given, rest, _ = current.make_parser(context).parse_args(arguments)
    except _USAGE_ERROR as error:
        return None if "requires an argument" in str(error) and not is_whole else str(error)
    if rest:
        return f"too many arguments: {rest}"
    missing = [one.name for one in current.params if one.required and not given.get(one.name)]
    return f"missing: {missing}" if missing and is_whole else None


def _parse(line: str) -> Command:
    code, _, comment = line.partition(" #")
    code, _, jq = code.partition(" | jq ")
    code = re.split(r"\s(?:&&|&|\|)(?:\s|$)", code)[0]
    status = _STATUS.search(comment)
    reads = re.match(r"'?\.(\w+)", jq)
    return Command(tuple(shlex.split(code)), int(status[1]) if status else 0, reads[1] if reads else "")
