# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs one command in many sandboxes, some at a time, and keeps what each of them writes."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import List, Mapping, Optional, Sequence, Tuple

from .. import store
from ..errors import SandlotError
from ..sandbox import facts, names, runtime
from ..site import Site
from . import command, files
from .errors import Missing, Stopped, status
from .streams import streams


@dataclass(frozen=True)
class Task:
    """A command; it is skipped where ``creates`` exists, or ``removes`` does not. Paths are inside.

    A ``check`` runs nothing.
    """

    argv: Sequence[str]
    stdin: Optional[bytes] = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: Optional[str] = None
    cwd: str = ""
    creates: str = ""
    removes: str = ""
    timeout: Optional[float] = None
    output_limit: Optional[int] = None
    detach: bool = False
    check: bool = False


@dataclass
class Outcome:
    """The end of a command in one sandbox; ``skipped`` tells why it did not run.

    Times are seconds since 1970. A ``failure`` is one of sandlot: the command did not come to its
    own end.
    """

    sandbox: str
    code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    times: Optional[Tuple[float, float]] = None
    skipped: str = ""
    failure: Optional[SandlotError] = None


def run(site: Site, sandboxes: Sequence[str], task: Task, at_once: int) -> List[Outcome]:
    """Run the command in each sandbox; the outcomes in the order of the names."""
    one = partial(_run_one, site, task)
    with ThreadPoolExecutor(min(at_once, len(sandboxes)) or 1) as threads:
        return list(threads.map(one, sandboxes))


def _run_one(site: Site, task: Task, name: str) -> Outcome:
    outcome = Outcome(name)
    try:
        outcome.skipped = _reason_to_skip(site, name, task)
        if not outcome.skipped and not task.check:
            _carry_out(site, task, outcome)
    except (Missing, Stopped) as error:
        # An earlier task of a check would have made or started it.
        if not task.check:
            outcome.failure = error
    except SandlotError as error:
        outcome.failure = error
    if outcome.failure:
        outcome.code = status(outcome.failure)
    return outcome


def _carry_out(site: Site, task: Task, outcome: Outcome) -> None:
    with streams(task.stdin) as pipes:
        begin = time.time()
        try:
            outcome.code = command.execute(
                site,
                outcome.sandbox,
                task.argv,
                stdin_fd=pipes.stdin,
                stdout_fd=pipes.stdout,
                stderr_fd=pipes.stderr,
                env=task.env,
                cwd=task.cwd,
                user=task.user,
                timeout=task.timeout,
                output_limit=task.output_limit,
                detach=task.detach,
                raises_refusal=True,
            )
        finally:
            outcome.times = (begin, time.time())
            outcome.stdout, outcome.stderr = pipes.written()


def _reason_to_skip(site: Site, name: str, task: Task) -> str:
    """The reason not to run the command, as ansible.builtin.command words it."""
    if not task.creates and not task.removes:
        return ""
    with files.opened(site, name, task.user) as server:
        if task.creates and server.exists(os.fsencode(task.creates)):
            return f"{task.creates} exists"
        if task.removes and not server.exists(os.fsencode(task.removes)):
            return f"{task.removes} does not exist"
    return ""


def labelled(site: Site, labels: Mapping[str, str]) -> List[str]:
    """The sandboxes with all these labels that run, or are to run."""
    chosen = []
    for name in names.recorded(site):
        record = store.read(site.sandbox(name).record)
        try:
            about = facts.of_record(record or {})
        except (KeyError, TypeError, AttributeError):
            continue  # broken, or being made
        if any(about["labels"].get(key) != value for key, value in labels.items()):
            continue
        if about["wanted"] == "started" or runtime.running(site.sandbox(name)):
            chosen.append(name)
    return chosen
