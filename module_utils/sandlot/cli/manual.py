# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot manual: makes the manual page from the rows of the verbs."""

from __future__ import annotations

import argparse
import sys

from ..site import Site
from .verbs import VERBS, Argument

_HEAD = """\
.\\" SPDX-License-Identifier: GPL-3.0-or-later
.\\" Made from module_utils/sandlot/cli/verbs.py by "sandlot manual".
.TH SANDLOT 8 "" "sandlot" "System Administration"
.SH NAME
sandlot \\- sandboxes of this host
.SH SYNOPSIS
.B sandlot
.I COMMAND
.RI [ OPTION ...]
.RI [ ARGUMENT ...]
.SH DESCRIPTION
Shows and runs the sandboxes that Ansible deployed on this host. All commands but completion and
manual need root. Text goes to standard output, errors with their remedies to standard error.
.SH COMMANDS
"""
_TAIL = """\
.SH EXIT STATUS
.TP
.B 0
All is well.
.TP
.B 1
Something failed; the message says what, and what remedies it.
.TP
.B 2
The command line is wrong.
.TP
.B 3
launcher \\-\\-status: no launcher runs.
.TP
.B 124, 125, 126, 127, 137
exec, run: the command ran for longer than \\-\\-timeout; sandlot failed or its command line is
wrong; the command can not be run; there is no such command; the sandbox ended. Otherwise both
end with the status of their command, 128 + N after signal N.
.SH ENVIRONMENT
.TP
.B SANDLOT_ROOT
A directory below which all paths lie, for tests.
.SH FILES
.TP
.I /var/lib/sandlot
State: records, layers, images, networks.
.TP
.I /run/sandlot
Namespaces, sockets and what runs now.
.TP
.I /usr/local/lib/sandlot
The engine.
.SH SEE ALSO
.BR unshare (1),
.BR nsenter (1),
.BR namespaces (7),
.BR cgroups (7)
"""


def run(site: Site, options: argparse.Namespace) -> int:
    sys.stdout.write(page())
    return 0


def page() -> str:
    lines = []
    for verb in VERBS:
        shown = " ".join([verb.name, *(_usage(argument) for argument in verb.arguments)])
        lines += [f".SS {_escaped(shown)}", _sentence(verb.text)]
        for argument in verb.arguments:
            if argument.is_option:
                names = _escaped(", ".join(argument.names) + _value(argument))
                lines += [".TP", f".B {names}", _sentence(argument.text)]
    return _HEAD + "".join(f"{line}\n" for line in lines) + _TAIL


def _usage(argument: Argument) -> str:
    """An argument as usage lines of argparse show it."""
    if argument.is_option:
        return f"[{argument.names[0]}{_value(argument)}]"
    word = argument.settings.get("metavar") or argument.names[0].upper()
    word = "|".join(argument.choices) or word
    forms = {"?": f"[{word}]", "*": f"[{word}...]", "+": f"{word}..."}
    return forms.get(argument.settings.get("nargs", ""), word)


def _value(argument: Argument) -> str:
    if not argument.takes_value:
        return ""
    name = argument.settings.get("metavar") or argument.names[-1].lstrip("-").upper()
    return f" {'|'.join(argument.choices) or name}"


def _sentence(text: str) -> str:
    return f"{_escaped(text[:1].upper() + text[1:])}."


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace(" '", " \\&'")
