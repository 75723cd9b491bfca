# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Parses the command line and calls one verb, whose module is imported only now to start fast."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence

from ..errors import SandlotError
from ..kernel import confine, files, signals
from ..oserrors import explained
from ..site import Site
from . import output
from .verbs import VERBS

FAILURE = 1
WRONG = 2
INTERRUPTED = 130


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line; its exit code. Wrong usage exits with 2, of exec and run with 125."""
    signals.reset()
    files.close_umask()
    _open_streams()
    if argv is None:
        # A core dump would have values of secrets.
        confine.prctl(confine.PR_SET_DUMPABLE, 0)
    options = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        site = Site.from_environment()
        if options.verb.needs_root:
            site.require_root("use sudo")
        module, dummy, function = options.verb.run.partition(".")
        run = getattr(importlib.import_module(f".{module}", __package__), function)
        code = int(run(site, options))
        sys.stdout.flush()
        return code
    except SandlotError as error:
        return _failed(options, error)
    except KeyboardInterrupt:
        _write_out()
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes again at exit and would print the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            return _failed(options, explained(error))
        # Errors of files name the file, so this is an error of standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _failed(options, SandlotError(f"the output can't be written: {error.strerror}"))


def _failed(options: argparse.Namespace, error: SandlotError) -> int:
    """Print the error after all output; the exit status."""
    _write_out()
    output.complain(error)
    token = getattr(options, "errors_as", None)
    if not options.verb.runs and not token:
        return FAILURE
    from ..reach import errors

    if token:
        sys.stderr.write(errors.line(token, error))
    return errors.status(error) if options.verb.runs else FAILURE


def _write_out() -> None:
    """Write what waits in this process, before it ends for another reason than its output."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()


def _open_streams() -> None:
    """Put /dev/null in place of closed standard streams.

    The next descriptor, such as the connection to init, would else be taken for one of them.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, thus ``fd``
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))


def parse(words: List[str]) -> argparse.Namespace:
    """Parse by argparse, except the words after the first "--"."""
    tail: List[str] = []
    if "--" in words:
        position = words.index("--")
        words, tail = words[:position], words[position:]
    parser = _parser(words)
    options = parser.parse_args(words)
    if options.command in ("exec", "run", "trace"):
        options.argv = options.argv + tail if options.argv else tail[1:]
        if not options.argv and options.command == "exec":
            parser.error("exec: give it a command: sandlot exec NAME -- CMD [ARGUMENT...]")
    elif tail:
        parser.error(f"{options.command} takes nothing after --")
    return options


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are not taken for those of a command that a verb ``runs``."""

    runs = False

    def error(self, message: str) -> NoReturn:
        from ..reach import errors

        self.print_usage(sys.stderr)
        self.exit(errors.STATUS if self.runs else WRONG, f"{self.prog}: error: {message}\n")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of the verb that comes first; of all, without their arguments, when none does."""
    look: Dict[str, Any] = {"formatter_class": _formatter}
    parser = _Parser(prog="sandlot", description="Sandboxes of this host.", **look)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for verb in [verb for verb in VERBS if verb.name in words[:1]] or VERBS:
        text = f"{verb.text[0].upper()}{verb.text[1:]}."
        added = commands.add_parser(verb.name, help=verb.text, description=text, **look)
        added.set_defaults(verb=verb)
        if verb.runs and verb.name in words[:1]:
            parser.runs = added.runs = True
        place = added.add_mutually_exclusive_group() if verb.exclusive else added
        for argument in verb.arguments if verb.name in words else ():
            place.add_argument(*argument.names, help=argument.text, **argument.settings)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Made for each argument; without a width, argparse imports shutil and all that compresses."""
    try:
        width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        width = 0
    return argparse.HelpFormatter(prog, width=(width if width > 0 else 80) - 2)
