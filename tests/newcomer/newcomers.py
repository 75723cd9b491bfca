# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The users who follow the README."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import lan
import machine
import roots
from readme import TREE
from terminal import Done, Terminal


@dataclass(frozen=True)
class Way:
    """How one newcomer differs from the others."""

    suite: str
    directory: str = "sandlot"
    umask: int = 0o022
    profile: str = ""


WAYS = (
    Way("bookworm", umask=0o077, profile="umask 077\n"),
    Way("trixie", directory="my projects/sandlot"),
    Way("sid", profile="export LC_ALL=C\n"),
)
# What was typed since a test has begun, with its seconds.
times: list[str] = []


class Newcomer:
    """A user with sudo and a password, at the top of a clone of the tree."""

    def __init__(self, host: machine.Machine, way: Way, network: lan.Lan) -> None:
        self.host = host
        self.way = way
        self.network = network
        self.home = f"/home/{roots.USER}"
        self.clone = f"{self.home}/{way.directory}"
        self.terminal: Terminal = host.terminal(roots.USER)
        self.terminal.profile = f"cd {shlex.quote(self.clone)}\n"

    def types(
        self, command: str, answers: tuple[tuple[str, str], ...] = (), *, fails: bool = False
    ) -> Done:
        done = self.terminal.type(command, answers)
        times.append(f"{done.seconds:6.1f}  {self.way.suite}: {command.splitlines()[-1]}")
        # Shown with a test that fails.
        print(f"$ {command}\n{done}")
        assert (done.code != 0) == fails
        return done


def arrived(
    stack: contextlib.ExitStack, network: lan.Lan, way: Way, archive: Path, address: str
) -> Newcomer:
    """A user on a machine of that archive, with a clone."""
    home = f"/home/{roots.USER}"
    # So that what is the same for all is downloaded once.
    downloads = roots.cache() / "pip"
    downloads.mkdir(exist_ok=True)
    shared = {f"{home}/.cache/pip": downloads}
    host = stack.enter_context(machine.running(network, archive, way.suite, address, shared))
    _clone(way, host.root)
    with open(host.root / home[1:] / ".profile", "a") as file:
        file.write(way.profile)
    host.run("chown", "-R", f"{roots.USER}:{roots.USER}", home)
    return Newcomer(host, way, network)


def _clone(way: Way, root: Path) -> None:
    """What git knows of this tree, and what it doesn't know yet, as that user would have it."""
    place = root / "home" / roots.USER / way.directory
    os.makedirs(place.parent, exist_ok=True)
    # The user gets all of it, and linked files would be this tree's own.
    command = ["git", "clone", "--quiet", "--no-hardlinks", str(TREE), str(place)]
    subprocess.run(command, check=True, umask=way.umask)
    listing = ["git", "-C", str(TREE), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    there = "\0".join(name for name in names if (TREE / name).exists() and name)
    copy = ["xargs", "-0", "cp", "--parents", "-d", "-t", str(place)]
    subprocess.run(copy, cwd=TREE, input=there, text=True, check=True, umask=way.umask)
