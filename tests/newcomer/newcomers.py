# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The users who follow the README."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import lan
import machine
import roots
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

    def types(self, command: str, answers: tuple[tuple[str, str], ...] = ()) -> Done:
        done = self.terminal.type(command, answers)
        times.append(f"{done.seconds:6.1f}  {self.way.suite}: {command.splitlines()[-1]}")
        # Shown with a test that fails.
        print(f"$ {command}\n{done}")
        assert done.code == 0
        return done
