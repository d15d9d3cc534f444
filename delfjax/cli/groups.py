"""Groups of commands: their help, and the way from the words of a command line to one command.

Only the parser of the chosen command is built, and a command imports what it needs when it runs:
help and usage errors appear at once.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import tyro

from delfjax.cli.options import UsageError
from delfjax.cli.output import print

# The help of a group is set no wider than this, columns.
_WIDTH = 100
# tyro sets what is wrong in a box: a title, then parts between rules; in ASCII where the terminal
# may not show more.
_BORDER = re.compile(r"^(?:│ |  )|\s*│?$", re.MULTILINE)
_RULE = re.compile(r"^[ ╰]?[─-]{3,}[ ╯]?$", re.MULTILINE)
# An option that tyro names on a line of its own, with its explanation on the lines below.
_OPTION = re.compile(r"^    (\S.*)((?:\n {8}.*)*)", re.MULTILINE)
# Python's words for text that is no number.
_NO_INTEGER = re.compile(r"invalid literal for int\(\) with base 10:")
# The home folder at the beginning of a word, or of the value in it, as in ``--set model=~/a``.
_HOME = re.compile(r"(?:(?<==)|^)~[^/\\=]*")
# An option whose value is empty.
_EMPTY = re.compile(r"--[\w-]+=")
# Said in the place of the explanations of commands, which are docstrings.
_STRIPPED = (
    "Python runs with -OO or PYTHONOPTIMIZE=2, which strips the explanations of commands; without"
    " it, this help has them."
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@runtime_checkable
class Command(Protocol):
    """A dataclass of options, which tyro fills from the command line.

    The first paragraph of its docstring is one sentence; the help of its group shows that alone,
    its own help the whole docstring.
    """

    def run(self) -> None:
        """Do the work.

        Raises:
            DelfjaxError: bad input, in one line.
        """


@dataclass(frozen=True)
class Group:
    """Commands that share a name.

    Attributes:
        about: one sentence.
        sections: heading → name → command or group, as help lists them.
    """

    about: str
    sections: Mapping[str, Mapping[str, type[Command] | Group]]

    @property
    def members(self) -> dict[str, type[Command] | Group]:
        """Every command and group of all sections by its name."""
        return {name: member for part in self.sections.values() for name, member in part.items()}


def parse(arguments: list[str], group: Group, *, prog: str) -> Command:
    """Find the command that the arguments name and fill in its options.

    Args:
        arguments: words of the command line after ``prog``.
        group: the commands to choose from.
        prog: words of the command line that led to ``group``.

    Raises:
        UsageError: no command is named, or its options are malformed.
        ConfigError: no command of that name.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(*group_help(group, prog).split("\n"), sep="\n")
        raise SystemExit(0)
    member = _member(group, name)
    if isinstance(member, Group):
        return parse(arguments[1:], member, prog=f"{prog} {name}")
    return _with_options(member, arguments[1:], f"{prog} {name}")


def group_help(group: Group, prog: str) -> str:
    """What ``--help`` prints for a group: its commands, a sentence about each."""
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    indent = max(len(name) for name in group.members) + 4
    lines = [f"usage: {prog} COMMAND [OPTIONS]", "", *textwrap.wrap(group.about, width)]
    for heading, members in group.sections.items():
        lines += ["", f"{heading}:"]
        for name, member in members.items():
            about = textwrap.wrap(_about(member), max(width - indent, 20)) or [""]
            lines += [(f"  {name}".ljust(indent) + about[0]).rstrip()]
            lines += [" " * indent + line for line in about[1:]]
    if _stripped():
        lines += ["", *textwrap.wrap(_STRIPPED, width)]
    lines += ["", f"`{prog} COMMAND --help` explains a command."]
    return "\n".join([*lines, "DELFJAX_DEBUG=1 shows the traceback of an error."])


def _about(member: type[Command] | Group) -> str:
    if isinstance(member, Group):
        return member.about
    return " ".join(_explanation(member).partition("\n\n")[0].split())


def _explanation(command: type[Command]) -> str:
    """The docstring of a command; nothing where Python has stripped it and a dataclass has put its
    signature in its place."""
    return "" if _stripped() else inspect.cleandoc(command.__doc__ or "")


def _stripped() -> bool:
    return sys.flags.optimize >= 2


def _member(group: Group, name: str) -> type[Command] | Group:
    members = group.members
    if not name:
        raise UsageError(f"no command given; there are: {', '.join(members)}")
    if name not in members:
        # The config's validation takes time to import, which only a misspelt command costs.
        from delfjax.config import require_known

        require_known("command", name, members)
    return members[name]


def _with_options(command: type[Command], arguments: list[str], prog: str) -> Command:
    words = [_expanded(word) for word in arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                args=words,
                prog=prog,
                description=_explanation(command) or _STRIPPED,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_one_line(said.getvalue())}; see `{prog} --help`") from None


def _expanded(word: str) -> str:
    """The word with ``~`` replaced by the home folder; shells do so only where a word begins.

    Raises:
        UsageError: the word is empty. As a path it would be the current folder.
    """
    if not word or _EMPTY.fullmatch(word):
        raise UsageError(
            f"{word or 'an argument'} is empty; is it a variable of the shell that is not set?"
        )
    return _HOME.sub(lambda found: os.path.expanduser(found[0]), word)


def _one_line(message: str) -> str:
    """What was wrong, and the options that may have been meant, from the box of a tyro error."""
    inside = _BORDER.sub("", _COLOUR.sub("", message).partition("\n")[2])
    wrong, *hints = [part for part in _RULE.split(inside) if part.strip()] or [message]
    said = _NO_INTEGER.sub("expected a whole number, got", " ".join(_OPTION.sub("", wrong).split()))
    named = ", ".join(_explained(*option.groups()) for option in _OPTION.finditer(wrong))
    meant = [
        option[1].partition(" ")[0]
        for hint in hints
        if hint.strip().startswith(("Perhaps", "Arguments similar"))
        for option in _OPTION.finditer(hint)
    ]
    suggestion = f" (did you mean {' or '.join(meant)}?)" if meant else ""
    return f"{said.rstrip('.')} {named}".strip() + suggestion


def _explained(option: str, explanation: str) -> str:
    words = " ".join(explanation.split()).removesuffix("(required)").strip()
    return f"{option} ({words})" if words else option
