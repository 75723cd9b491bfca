# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The one exception root of the engine; shells (modules, CLI) catch it once, at their edge."""

from __future__ import annotations


class SandlotError(Exception):
    """An explained failure: what happened, and what the user can do about it (``hint``)."""

    def __init__(self, message: str, *, hint: str = "", code: int = 0) -> None:
        """``code`` is the number of the error behind it, by which the client knows the remedy."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class SpecError(SandlotError):
    """A value the user gave is wrong; nothing has been changed."""

    def __init__(self, option: str, value: object, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{option}: {value!r} {problem}", hint=hint)
        self.option = option
        self.value = value


class HostError(SandlotError):
    """The host lacks a kernel feature, a controller or a program that was asked for."""


class StateError(SandlotError):
    """A state file of ours can't be read or is from a newer sandlot."""


class ForeignError(SandlotError):
    """Something that is not ours holds a name, address, port or id range we need."""


class LaunchError(SandlotError):
    """The launcher could not create, start or stop a sandbox."""
