# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The verbs of `sandlot`, one row each.

The parser, shell completion and the manual page follow from the rows. A new module is also imported
in ``main``, by which Ansible finds the files that a host needs.
"""

from __future__ import annotations

import argparse

from . import job_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence, Tuple, Union

SHELLS = ("bash", "zsh", "fish")
# Kinds that completion offers: names of sandboxes and of images, paths of the host, and both
# NAME:PATH and paths of the host.
SANDBOXES, IMAGES, FILES, PLACES = "sandboxes", "images", "files", "places"


# Plain classes: importing dataclasses or typing would add half a millisecond to each start.
class Argument:
    """An option, or a positional word if its only name has no dash.

    ``settings`` are those of argparse. Completion offers its choices, else what ``offers`` names: a
    kind of things, or words.
    """

    __slots__ = ("names", "text", "offers", "settings")

    def __init__(
        self, *names: str, text: str, offers: Union[str, Sequence[str]] = "", **settings: Any
    ) -> None:
        self.names = names
        self.text = text
        self.offers = offers or settings.get("choices", "")
        self.settings = settings

    @property
    def is_option(self) -> bool:
        return self.names[0].startswith("-")

    @property
    def choices(self) -> Tuple[str, ...]:
        return tuple(self.settings.get("choices", ()))

    @property
    def takes_value(self) -> bool:
        return self.is_option and self.settings.get("action") != "store_true"


class Verb:
    """``run`` is MODULE.FUNCTION of this package; ``exclusive`` options exclude each other.

    A verb that ``runs`` a command of a sandbox ends with its exit status; when sandlot itself
    fails, with another one (reach/errors.py).
    """

    __slots__ = ("name", "run", "text", "arguments", "exclusive", "needs_root", "runs")

    def __init__(
        self,
        name: str,
        run: str,
        text: str,
        *arguments: Argument,
        exclusive: bool = False,
        needs_root: bool = True,
        runs: bool = False,
    ) -> None:
        self.name = name
        self.run = run
        self.text = text
        self.arguments = arguments
        self.exclusive = exclusive
        self.needs_root = needs_root
        self.runs = runs


def _number(text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def count(text: str) -> int:
    number = int(_number(text, int))
    if number < 0:
        raise argparse.ArgumentTypeError("can't be negative")
    if number >= 1 << 62:
        raise argparse.ArgumentTypeError("is too large")
    return number


def duration(text: str) -> float:
    return _seconds(text, 3600)


def seconds(text: str) -> float:
    return _seconds(text, 2_000_000)


def _seconds(text: str, most: int) -> float:
    number = _number(text, float)
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"has to be above 0, and at most {most} seconds")
    return number


def token(text: str) -> str:
    if not text.isascii() or not text.isalnum():
        raise argparse.ArgumentTypeError("has to be letters and digits")
    return text


def _flag(*names: str, text: str) -> Argument:
    return Argument(*names, text=text, action="store_true")


FORMAT = Argument(
    "--format", text="how the answer is written", choices=("text", "json"), default="text"
)
SHOW_ENV = _flag("--show-env", text="show the values of env, which may be secrets")
ERRORS_AS = Argument(
    "--errors-as",
    text="for programs: also print a failure of sandlot as a line of TOKEN and JSON (kind, message,"
    " hint), the last of standard error; a random TOKEN can't be forged inside",
    type=token,
    metavar="TOKEN",
)
NAME = Argument("name", text="a sandbox", offers=SANDBOXES)
NAMES = Argument("name", text="sandboxes", nargs="+", offers=SANDBOXES)
ANY_NAMES = Argument(
    "name", text="sandboxes; all that run when none is named", nargs="*", offers=SANDBOXES
)
STREAM_OPTIONS = (
    _flag("-i", "--interactive", text="pass standard input"),
    _flag("-t", "--tty", text="give it a terminal"),
)
# The rest that exec and run have in common.
COMMAND_OPTIONS = (
    Argument(
        "-e",
        "--env",
        text="set a variable; without =VALUE pass it on",
        action="append",
        default=[],
        metavar="KEY=VALUE",
    ),
    Argument(
        "--env-file",
        text="set the variables of a file of such lines; --env goes before",
        action="append",
        default=[],
        metavar="FILE",
        offers=FILES,
    ),
    Argument(
        "--timeout",
        text="end it, and what it started, after that many seconds: SIGTERM, then SIGKILL"
        " after 5 seconds; the exit status is 124",
        type=seconds,
        metavar="SECONDS",
    ),
    Argument(
        "--output-limit",
        text="kill it once it has written more to both outputs, as 512k or 10m",
        metavar="SIZE",
    ),
)

VERBS = (
    Verb("list", "listing.list_all", "list sandboxes", FORMAT),
    Verb(
        "inspect", "inspection.run", "show all that is known of sandboxes", FORMAT, SHOW_ENV, NAMES
    ),
    Verb(
        "exec",
        "execute.run",
        "run a command in a sandbox",
        *STREAM_OPTIONS,
        _flag("-d", "--detach", text="let it run on, without standard streams"),
        Argument("-u", "--user", text="USER[:GROUP], names or numbers"),
        Argument("-w", "--workdir", text="working directory inside", default="", metavar="DIR"),
        *COMMAND_OPTIONS,
        _flag("--python", text="show it the host's Python meanwhile: /dev/.python/bin/python3"),
        ERRORS_AS,
        NAME,
        # "command" is the verb's own name in the parser.
        Argument(
            "argv",
            text="the command and its arguments",
            nargs=argparse.REMAINDER,
            metavar="-- CMD [ARGUMENT...]",
        ),
        runs=True,
    ),
    Verb(
        "cp",
        "copy.run",
        "copy files and directories into a sandbox or out of it",
        _flag("-a", "--archive", text="keep owners, as the numbers that the sandbox sees"),
        Argument(
            "-u",
            "--user",
            text="USER[:GROUP], names or numbers: whose rights inside, and the owner of new files",
        ),
        Argument(
            "--offset",
            text="with -: where to begin; a file inside is cut there and written from there on",
            type=count,
            default=0,
            metavar="N",
        ),
        Argument(
            "--length", text="with -: how many bytes to read at most", type=count, metavar="N"
        ),
        ERRORS_AS,
        Argument(
            "source",
            text="NAME:PATH, a path of the host, or - for standard input",
            offers=PLACES,
        ),
        Argument(
            "target",
            text="NAME:PATH, a path of the host, or - for standard output",
            offers=PLACES,
        ),
    ),
    Verb(
        "run",
        "job.run",
        "run a command in a sandbox of its own, of which nothing is left afterwards",
        Argument("--image", text="the image", required=True, offers=IMAGES),
        *STREAM_OPTIONS,
        *(
            Argument(*row.names, text=row.text, dest=row.option, **row.settings)
            for row in job_options.OPTIONS
        ),
        *COMMAND_OPTIONS,
        ERRORS_AS,
        Argument(
            "argv",
            text="the command and its arguments, in place of the image's",
            nargs=argparse.REMAINDER,
            metavar="-- CMD [ARGUMENT...]",
        ),
        runs=True,
    ),
    Verb(
        "logs",
        "logs.run",
        "show what a sandbox wrote",
        FORMAT,
        _flag("-f", "--follow", text="go on until it ends"),
        Argument("-n", "--tail", text="only the last N lines", type=count, metavar="N"),
        Argument(
            "--since",
            text="an age (90s, 10m, 2h, 1d), a date and time (ISO 8601), or seconds since 1970",
            metavar="TIME",
        ),
        _flag("-t", "--timestamps", text="begin each line with its time"),
        NAME,
    ),
    Verb(
        "trace",
        "trace.run",
        "run a sandbox's command once more, and tell which calls are refused and what allows them",
        FORMAT,
        Argument(
            "--timeout",
            text="end it after that many seconds",
            type=duration,
            default=10.0,
            metavar="SECONDS",
        ),
        NAME,
        Argument(
            "argv",
            text="another command and its arguments",
            nargs=argparse.REMAINDER,
            metavar="-- CMD [ARGUMENT...]",
        ),
    ),
    Verb("start", "lifecycle.change", "start sandboxes, also after the next boot", FORMAT, NAMES),
    Verb(
        "stop",
        "lifecycle.change",
        "stop sandboxes; they stay stopped after the next boot",
        FORMAT,
        NAMES,
    ),
    Verb("restart", "lifecycle.change", "stop sandboxes and start them again", FORMAT, NAMES),
    Verb(
        "kill",
        "killing.run",
        "signal the workloads of sandboxes; after SIGKILL and the stop signal, no restart follows",
        Argument(
            "-s",
            "--signal",
            text="its name or number, KILL if not given",
            default="KILL",
            offers=("HUP", "INT", "KILL", "QUIT", "STOP", "CONT", "TERM", "USR1", "USR2"),
            metavar="SIGNAL",
        ),
        NAMES,
    ),
    Verb(
        "wait",
        "waiting.run",
        "wait until sandboxes have ended for good, and print their exit codes",
        FORMAT,
        NAMES,
    ),
    Verb(
        "rm",
        "lifecycle.remove",
        "remove sandboxes; what they wrote stays as snapshots, and volumes stay",
        FORMAT,
        _flag("-f", "--force", text="also those that run: they are stopped"),
        NAMES,
    ),
    Verb("top", "listing.top", "show what sandboxes use", FORMAT, ANY_NAMES),
    Verb(
        "stats",
        "stats.run",
        "show what sandboxes use of processors, memory, network and disks, on a terminal every"
        " second",
        FORMAT,
        _flag("--no-stream", text="show it once"),
        ANY_NAMES,
    ),
    Verb(
        "metrics",
        "metrics.run",
        "print what sandboxes do and use, in Prometheus' text format",
        Argument(
            "-o",
            "--output",
            text="replace this file instead, as node_exporter's textfile collector needs it",
            metavar="FILE",
            offers=FILES,
        ),
    ),
    Verb(
        "explain",
        "explain.run",
        "print a sandbox as a script of unshare, mount, ip and nsenter",
        FORMAT,
        SHOW_ENV,
        NAME,
    ),
    Verb(
        "doctor",
        "doctor.run",
        "say what this host has and lacks for sandboxes, and the remedies",
        FORMAT,
    ),
    Verb(
        "audit",
        "audit.run",
        "compare sandboxes, as the kernel shows them, with what was deployed; exit status 1 when"
        " something differs",
        FORMAT,
        Argument("name", text="sandboxes; all when none is named", nargs="*", offers=SANDBOXES),
    ),
    Verb("refresh", "lifecycle.refresh", "resolve the names in egress lists again", FORMAT),
    Verb(
        "images",
        "images.run",
        "list images, or remove old ones",
        FORMAT,
        Argument(
            "action",
            text="prune removes what neither an image nor a sandbox refers to",
            nargs="?",
            choices=("list", "prune"),
            default="list",
        ),
        _flag("-w", "--watch", text="follow what is being made, until nothing is"),
        _flag("-a", "--all", text="prune images that no sandbox uses as well"),
    ),
    Verb(
        "snapshots",
        "snapshots.run",
        "list, make, restore, clone, export, import and remove what is kept of sandboxes",
        FORMAT,
        _flag("--no-volumes", text="create, restore, clone: only the layer"),
        _flag("--force", text="restore, clone: also the layer of another image"),
        Argument(
            "action",
            text="list shows snapshots, the oldest first",
            nargs="?",
            choices=("list", "create", "restore", "clone", "export", "import", "rm"),
            default="list",
        ),
        Argument(
            "name",
            text="list: sandboxes, all when none is named; create and restore: a sandbox and"
            " the snapshot's name; clone: a sandbox, a snapshot if not its present state, and the"
            " new sandbox; export (to standard output): a sandbox and a snapshot; import (from"
            " standard input): names in place of those in the archive, if any; rm: a sandbox and"
            " names of its snapshots",
            nargs="*",
            offers=SANDBOXES,
        ),
    ),
    Verb("volumes", "volumes.run", "list volumes with what they hold and who uses them", FORMAT),
    Verb(
        "repair",
        "lifecycle.repair",
        "put back rules, links and limits that others took away",
        FORMAT,
        _flag("--check", text="only say what is wrong"),
    ),
    Verb("up", "service.up", "start what is to run after a boot"),
    Verb(
        "down",
        "service.down",
        "end what runs; it runs again after the next boot",
        _flag("--at-shutdown", text="do nothing unless the host is shutting down"),
    ),
    Verb(
        "launcher",
        "service.launcher",
        "run the launcher in the foreground",
        _flag("--status", text="only say whether it runs; exit status 3 when it does not"),
        _flag("--end", text="end the one that runs; sandboxes go on"),
        exclusive=True,
    ),
    Verb(
        "completion",
        "completion.run",
        "print what makes a shell complete this command",
        Argument("shell", text="the shell", nargs="?", choices=SHELLS),
        _flag("--names", text="only print the names of sandboxes"),
        _flag("--images", text="only print the names of images"),
        needs_root=False,
    ),
    Verb("manual", "manual.run", "print the manual page, for man -l -", needs_root=False),
)
