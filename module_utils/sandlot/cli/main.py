# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""From words to one call. Subcommands are imported when they are used, as starting counts."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from typing import Any, List, Optional, Sequence

from ..errors import SandlotError
from ..oserrors import explained
from ..site import Site
from . import output

_Commands = Any  # argparse names its type in private only
FAILURE = 1
# For exec, so that it is told from the command's own codes (as with podman and docker).
EXEC_FAILURE = 125
INTERRUPTED = 130


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command line; its exit code. Wrong usage exits with 2."""
    options = parse(list(sys.argv[1:] if argv is None else argv))
    failure = EXEC_FAILURE if options.command == "exec" else FAILURE
    try:
        site = Site.from_environment()
        site.require_root("use sudo")
        module = importlib.import_module(f".{options.module}", __package__)
        code = int(module.run(site, options))
        sys.stdout.flush()
        return code
    except SandlotError as error:
        output.complain(error)
        return failure
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes at exit and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            output.complain(explained(error))
            return failure
        # Files are named in errors, so this one is of writing the answer.
        output.say(f"the output can't be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def parse(words: List[str]) -> argparse.Namespace:
    """argparse, with what follows the first "--" kept out of its reach."""
    tail: List[str] = []
    if "--" in words:
        position = words.index("--")
        words, tail = words[:position], words[position:]
    parser = _parser()
    options = parser.parse_args(words)
    if options.command == "exec":
        options.argv = options.argv + tail if options.argv else tail[1:]
        if not options.argv:
            parser.error("exec: give it a command: sandlot exec NAME -- CMD [ARGUMENT...]")
    elif tail:
        parser.error(f"{options.command} takes nothing after --")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sandlot", description="Sandboxes of this host.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_list(commands)
    _add_inspect(commands)
    _add_exec(commands)
    _add_logs(commands)
    for action, text in (
        ("start", "start sandboxes, also after the next boot"),
        ("stop", "stop sandboxes; they stay stopped after the next boot"),
        ("restart", "stop sandboxes and start them again"),
    ):
        _formatted(_command(commands, action, "lifecycle", text)).add_argument("name", nargs="+")
    _add_top(commands)
    _add_explain(commands)
    text = "say what this host has and lacks for sandboxes, and the remedies"
    _formatted(_command(commands, "doctor", "doctor", text))
    _add_refresh(commands)
    _add_images(commands)
    _add_repair(commands)
    _command(commands, "up", "service", "start what is to run after a boot")
    down = _command(commands, "down", "service", "end what runs; it runs again after the next boot")
    text = "do nothing unless the host is shutting down"
    down.add_argument("--at-shutdown", action="store_true", help=text)
    launcher = _command(commands, "launcher", "service", "run the launcher in the foreground")
    instead = launcher.add_mutually_exclusive_group()
    text = "only say whether it runs; exit status 3 when it does not"
    instead.add_argument("--status", action="store_true", help=text)
    text = "end the one that runs; sandboxes go on"
    instead.add_argument("--end", action="store_true", help=text)
    return parser


def _command(commands: _Commands, name: str, module: str, text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text.capitalize() + "."
    )
    added.set_defaults(module=module)
    return added


def _formatted(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


def _add_list(commands: _Commands) -> None:
    _formatted(_command(commands, "list", "listing", "list sandboxes"))


def _add_inspect(commands: _Commands) -> None:
    text = "show all that is known of sandboxes"
    _formatted(_command(commands, "inspect", "inspection", text)).add_argument("name", nargs="+")


def _add_exec(commands: _Commands) -> None:
    parser = _command(commands, "exec", "execute", "run a command in a sandbox")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-u", "--user", help="USER[:GROUP], names or numbers")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR")
    text = "set a variable; without =VALUE pass it on"
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("name")
    # "command" is the subcommand's own name.
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD [ARGUMENT...]")


def _add_logs(commands: _Commands) -> None:
    parser = _formatted(_command(commands, "logs", "logs", "show what a sandbox wrote"))
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("-n", "--tail", type=_count, metavar="N", help="only the last N lines")
    text = "an age (90s, 10m, 2h, 1d), a date and time (ISO 8601), or seconds since 1970"
    parser.add_argument("--since", metavar="TIME", help=text)
    parser.add_argument("-t", "--timestamps", action="store_true")
    parser.add_argument("name")


def _add_top(commands: _Commands) -> None:
    parser = _formatted(_command(commands, "top", "top", "show what sandboxes use"))
    parser.add_argument("name", nargs="*")


def _add_explain(commands: _Commands) -> None:
    text = "print a sandbox as a script of unshare, mount, ip and nsenter"
    _formatted(_command(commands, "explain", "explain", text)).add_argument("name")


def _add_refresh(commands: _Commands) -> None:
    text = "resolve the names in egress lists again"
    _formatted(_command(commands, "refresh", "refresh", text))


def _add_images(commands: _Commands) -> None:
    parser = _formatted(_command(commands, "images", "images", "list images, or remove old ones"))
    text = "prune removes what neither an image nor a sandbox refers to"
    parser.add_argument("action", nargs="?", choices=("list", "prune"), default="list", help=text)
    text = "follow what is being made, until nothing is"
    parser.add_argument("-w", "--watch", action="store_true", help=text)
    text = "prune images that no sandbox uses as well"
    parser.add_argument("-a", "--all", action="store_true", help=text)


def _add_repair(commands: _Commands) -> None:
    text = "put back rules, links and limits that others took away"
    parser = _formatted(_command(commands, "repair", "repair", text))
    parser.add_argument("--check", action="store_true", help="only say what is wrong")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError("can't be negative")
    return count
