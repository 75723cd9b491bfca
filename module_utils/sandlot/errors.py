# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The only exception root of the engine; modules and the CLI catch it once, at their edge."""

from __future__ import annotations


class SandlotError(Exception):
    """An explained failure: what happened, and what the user can do about it (``hint``)."""

    def __init__(self, message: str, *, hint: str = "", code: int = 0) -> None:
        """``code`` is the number of the cause, by which the client finds the remedy."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def name(self, subject: str) -> None:
        """Put the name of what the error is about before its message; all else stays."""
        self.message = f"{subject}: {self.message}"

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def named(name: str, message: str) -> str:
    """A failure with its object in front; most messages begin with it."""
    return message if message.startswith(f"{name}:") else f"{name}: {message}"


class SpecError(SandlotError):
    """The user gave a wrong value; nothing has been changed."""

    def __init__(self, option: str, value: object, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{option}: {value!r} {problem}", hint=hint)
        self.option = option
        self.value = value

    def rename(self, option: str) -> None:
        """Put the name that the user knows the option by into the message, which begins with it."""
        self.message = f"{option}{self.message[len(self.option) :]}"
        self.option = option


class HostError(SandlotError):
    """The host lacks a kernel feature, a controller or a program that is needed."""


class StateError(SandlotError):
    """A state file of ours is unreadable, or a newer sandlot wrote it."""


class ForeignError(SandlotError):
    """A foreign object holds a name, address, port or id range that we need."""


class LaunchError(SandlotError):
    """The launcher could not create, start or stop a sandbox."""
