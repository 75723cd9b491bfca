# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot exec."""

from __future__ import annotations

import argparse
import os
from typing import Dict, List, Optional

from ..errors import SandlotError
from ..reach import command
from ..site import Site

# Environment and arguments of a command have less room together (execve(2)).
_FILE = 8 << 20


def run(site: Site, options: argparse.Namespace) -> int:
    _check(options)
    return command.execute(
        site,
        options.name,
        options.argv,
        stdin_fd=0 if options.interactive else None,
        stdout_fd=1,
        stderr_fd=2,
        env=environment(options),
        cwd=options.workdir,
        user=options.user,
        tty=options.tty,
        forward_signals=True,
        timeout=options.timeout,
        output_limit=size_in_bytes(options.output_limit),
        detach=options.detach,
        python=options.python,
        raises_refusal=bool(options.errors_as),
    )


def _check(options: argparse.Namespace) -> None:
    if not options.detach:
        return
    for name in ("interactive", "tty", "timeout", "output_limit"):
        if getattr(options, name):
            option = name.replace("_", "-")
            raise SandlotError(
                f"--detach can't be combined with --{option}: nobody waits for the command",
                hint="leave one of them out",
            )


def size_in_bytes(size: Optional[str]) -> Optional[int]:
    if size is None:
        return None
    if size.isdigit() and not size.startswith("0") and len(size) < 16:
        return int(size)
    # Not at the top, as the option table takes long to import.
    from ..spec import quantities

    return quantities.size("--output-limit", size)


def environment(options: argparse.Namespace) -> Dict[str, str]:
    """The variables from files, then from options; with a terminal also TERM, for programs."""
    passed = {"TERM": os.environ["TERM"]} if options.tty and "TERM" in os.environ else {}
    for path in options.env_file:
        for number, line in enumerate(_lines(path), 1):
            if line.strip() and not line.startswith("#"):
                _set(passed, line, f"{path}, line {number}")
    for item in options.env:
        _set(passed, item, "--env")
    return passed


def _lines(path: str) -> List[str]:
    try:
        with open(path, "rb") as handle:
            data = handle.read(_FILE + 1)
    except OSError as error:
        problem = f"--env-file: {path!r}: {error.strerror}"
        raise SandlotError(problem, hint="name a file of lines KEY=VALUE") from error
    if len(data) > _FILE:
        problem = f"--env-file: {path!r} holds more than {_FILE >> 20} MiB"
        raise SandlotError(problem, hint="no command takes that many variables")
    lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
    return [line.rstrip("\r\n").lstrip() for line in lines]


def _set(variables: Dict[str, str], item: str, place: str) -> None:
    """Take KEY=VALUE, or KEY from our own environment; messages leave out what may be a value."""
    key, given, value = item.partition("=")
    if not key or "\0" in item:
        raise SandlotError(f"{place}: names no variable", hint="write KEY=VALUE")
    if given:
        variables[key] = value
    elif key in os.environ:
        variables[key] = os.environ[key]
