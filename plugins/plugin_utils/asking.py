# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Asks many hosts at a time, each by a process of its own, which time and memory bound.

A host may answer slowly, without an end, or not at all, and connection plugins wait for it and keep
all that it sends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from ansible.errors import AnsibleError

from .listing import excerpt

# Beyond what the process has when it starts.
MEMORY = 512 << 20
LONGEST_PROBLEM = 500
_processes = multiprocessing.get_context("fork")
Question = Callable[[], Any]


@dataclass(frozen=True)
class Answer:
    value: Any = None
    problem: str = ""
    """Why there is no value; one harmless line."""


@dataclass(frozen=True)
class _Asking:
    name: str
    process: Any
    deadline: float

    def end(self) -> None:
        """End the process with those that it started, such as ssh."""
        for kill in (os.killpg, os.kill):
            # A new process has no group of its own yet; one that has ended is a zombie.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def ask_all(questions: Mapping[str, Question], *, forks: int, timeout: float) -> dict[str, Answer]:
    """The answers to all questions by name; each has ``timeout`` seconds for its own."""
    waiting = list(reversed(questions.items()))
    asked: dict[Any, _Asking] = {}
    answers: dict[str, Answer] = {}
    try:
        while waiting or asked:
            while waiting and len(asked) < forks:
                name, question = waiting.pop()
                pipe, process = _started(question)
                asked[pipe] = _Asking(name, process, time.monotonic() + timeout)
            _collect(asked, answers, timeout)
    finally:
        for each in asked.values():
            each.end()
    return answers


def _collect(asked: dict[Any, _Asking], answers: dict[str, Answer], timeout: float) -> None:
    """Wait for the next answer or deadline."""
    nearest = min(each.deadline for each in asked.values())
    ready = connection.wait(list(asked), max(0.0, nearest - time.monotonic()))
    late = [pipe for pipe, each in asked.items() if each.deadline <= time.monotonic()]
    for pipe in {*ready, *late}:
        each = asked.pop(pipe)
        if pipe in ready:
            answers[each.name] = _received(pipe)
        else:
            answers[each.name] = Answer(problem=f"it has not answered within {timeout:g} seconds")
        pipe.close()
        each.end()


def _started(question: Question) -> tuple[Any, Any]:
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_answer, args=(question, theirs))
    process.start()
    theirs.close()
    return ours, process


def _received(pipe: Any) -> Answer:
    try:
        answer: Answer = pipe.recv()
    except (EOFError, OSError):
        return Answer(problem="the process that asked it ended without an answer")
    return answer


def _answer(question: Question, pipe: Any) -> None:
    """Run in the new process; without a terminal no program asks its user."""
    os.setsid()
    _bound_memory()
    try:
        answer = Answer(question())
    except (AnsibleError, ValueError) as error:
        answer = Answer(problem=excerpt(str(error), LONGEST_PROBLEM))
    except MemoryError:
        answer = Answer(problem=f"its answer takes more than {MEMORY >> 20} MiB of memory")
    pipe.send(answer)


def _bound_memory() -> None:
    # Other systems than Linux have neither the file nor a limit that works; ValueError is for a
    # process that has a lower limit.
    with contextlib.suppress(FileNotFoundError, ValueError), open("/proc/self/statm") as handle:
        size = int(handle.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
