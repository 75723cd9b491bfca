# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot cp: files between the host and a running sandbox."""

from __future__ import annotations

import argparse
import os
import signal
from typing import NoReturn, Optional, Tuple

from ..errors import SandlotError
from ..reach import files, trees
from ..site import Site
from . import output

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_STDIN, _STDOUT = 0, 1
_FORM = "give one of both as NAME:PATH, such as web:/etc/hosts; ./a:b is a file of the host"


def run(site: Site, options: argparse.Namespace) -> int:
    source, target = place(options.source), place(options.target)
    sandbox = source[0] or target[0]
    if source[0] and target[0]:
        pipe = f"sandlot cp {options.source} - | sandlot cp - {options.target}"
        raise SandlotError("cp: source and target are both in sandboxes", hint=f"use {pipe}")
    if not sandbox:
        raise SandlotError("cp: neither source nor target is in a sandbox", hint=_FORM)
    _check(options, outward=bool(source[0]))
    for number in _ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one
            signal.signal(number, _end)
    with files.opened(site, sandbox, options.user) as server:
        if options.target == "-":
            name = os.fsencode(source[1])
            part = {"offset": options.offset, "length": options.length}
            server.get(name, _STDOUT, sparse=False, **part)
        elif options.source == "-":
            server.put_stream(os.fsencode(target[1]), _STDIN, options.offset)
        else:
            direction = trees.CopyOut if source[0] else trees.CopyIn
            copy = direction(sandbox, server, output.say, keep_owner=options.archive)
            copy.run(source[1], target[1])
    return 0


def place(word: str) -> Tuple[Optional[str], str]:
    """A sandbox and a path inside, or None and a path of the host."""
    name, colon, path = word.partition(":")
    if not colon or "/" in name or name in ("", ".", ".."):
        return None, word
    if not path:
        raise SandlotError(f"cp: {word!r} names no path", hint=_FORM)
    return name, path


def _check(options: argparse.Namespace, *, outward: bool) -> None:
    stream = options.target == "-" if outward else options.source == "-"
    if (options.offset or options.length is not None) and not stream:
        raise SandlotError(
            "cp: --offset and --length are for standard input and output",
            hint="give - in place of the file of the host",
        )
    if options.length is not None and not outward:
        raise SandlotError(
            "cp: --length limits what is read from a sandbox",
            hint="leave it out: what is written ends with standard input",
        )
    if options.archive and stream:
        raise SandlotError("cp: -a keeps owners of files, and - has none", hint="use -u USER")


def _end(number: int, _frame: object) -> NoReturn:
    """End by an exception, which removes what is half written."""
    raise SystemExit(128 + number)
