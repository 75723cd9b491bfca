# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Commands and files of a sandbox, by sandlot on its host."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, NoReturn

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.formatters import human_to_bytes

from ..module_utils.sandlot.kernel import text
from ..module_utils.sandlot.reach import python_place

# A file is copied in pieces, so that neither side holds it in memory.
PIECE = 16 << 20
# Where the host's Python is inside, while a command runs that names it.
PYTHON = python_place.INTERPRETER
# Failures by which no task can run there, as this user.
_UNREACHABLE = ("missing", "stopped", "vanished", "not-started")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_REMEDIES = {
    "missing": "deploy it, or correct ansible_sandbox_name",
    "output-limit": "let it write less, or raise ansible_sandbox_max_output",
}


class Target:
    """One sandbox, as one user of it."""

    def __init__(
        self,
        way: Any,
        sandbox: str,
        *,
        user: str | None,
        host_python: bool,
        tty: bool,
        max_output: int,
        max_file: int,
    ) -> None:
        self.way = way
        self.label = f"{sandbox}@{way.host}"
        self._sandbox = sandbox
        self._user = [f"--user={user}"] if user else []
        self._host_python = host_python
        self._tty = ["--tty"] if tty else []
        self._max_output = max_output
        self._max_file = max_file

    def execute(self, argv: Sequence[str], stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        options = ["--interactive"] if stdin else self._tty
        limit = f"--output-limit={self._max_output}"
        # Words may be the sandbox's own, such as the path of an interpreter that it has told.
        if self._host_python and any(python_place.PLACE in word for word in argv):
            options = [*options, "--python"]
        words = [*options, *self._user, limit, self._sandbox, "--", *argv]
        return self._run("exec", words, stdin)

    def put(self, source: str, path: str) -> None:
        """Copy a file of the controller to a path inside."""
        piece = PIECE if self.way.pipelining else self.way.max_inline
        offset = 0
        with open(source, "rb") as file:
            data = file.read(piece)
            while data or not offset:
                self._copy([f"--offset={offset}", "-", f"{self._sandbox}:{path}"], data)
                offset += len(data)
                data = file.read(piece)
                if not data:
                    return

    def fetch(self, path: str, target: str) -> None:
        """Copy a file inside to a path of the controller."""
        offset = 0
        with open(target, "wb") as file:
            while True:
                span = [f"--offset={offset}", f"--length={PIECE}"]
                data = self._copy([*span, f"{self._sandbox}:{path}", "-"])
                file.write(data)
                offset += len(data)
                if offset > self._max_file:
                    problem = f"{self.label}: {text.harmless(path)} holds more than"
                    remedy = "raise ansible_sandbox_max_file if you expect that"
                    raise AnsibleError(f"{problem} {self._max_file} bytes; {remedy}")
                if len(data) < PIECE:
                    return

    def _copy(self, words: list[str], stdin: bytes = b"") -> bytes:
        code, out, err = self._run("cp", [*self._user, *words], stdin)
        if code:
            reason = text.harmless(err.decode("utf-8", "replace").strip())
            raise AnsibleError(f"{self.label}: sandlot cp has ended with {code}: {reason}")
        return out

    def _run(self, verb: str, words: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
        """Run sandlot; its own failures are errors, with a token that nobody inside knows."""
        token = secrets.token_hex(16)
        code, out, err = self.way.run([verb, f"--errors-as={token}", *words], stdin)
        shown, mark, failure = err.rpartition(f"\n{token} ".encode())
        if code and f"--errors-as={token}".encode() in err:
            # argparse quotes words that it does not know; nobody inside knows this one.
            problem = (
                f"host {self.way.host} has an older sandlot, which can't run tasks in sandboxes"
            )
            raise AnsibleConnectionFailure(f"{problem}; deploy it again (role sandbox_host)")
        if mark:
            self._fail(json.loads(failure.partition(b"\n")[0]))
        return code, out, err

    def _fail(self, failure: dict[str, str]) -> NoReturn:
        kind, message = failure["kind"], text.harmless(failure["message"])
        remedy = _REMEDIES.get(kind) or text.harmless(failure["hint"])
        problem = f"sandbox {self.label}: {message}" + (f"; {remedy}" if remedy else "")
        raise (AnsibleConnectionFailure if kind in _UNREACHABLE else AnsibleError)(problem)


def name(value: object) -> str:
    """The name of a sandbox; sandlot would take another word for an option."""
    if not _NAME.fullmatch(str(value)):
        raise AnsibleError(
            f"ansible_sandbox_name: {text.harmless(repr(value))} can't name a sandbox; "
            "use letters, digits, '_', '.' and '-', a letter or digit first"
        )
    return str(value)


def size(option: str, value: str) -> int:
    """A size such as 64M in bytes."""
    try:
        number = int(human_to_bytes(value))
    except ValueError:
        number = 0
    if number < 1:
        raise AnsibleError(f"{option}: {value!r} is no size; write a number with K, M or G")
    return number
