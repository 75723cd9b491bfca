# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Decides what becomes of missing Debian packages; the action plugin of the module installs."""

from __future__ import annotations

from typing import Sequence

from ..errors import HostError
from .install import Outcome

INSTALL, REQUIRE, REPORT = CHOICES = ("install", "require", "report")


def due(outcome: Outcome, missing: Sequence[str], choice: str, *, check: bool) -> Outcome:
    """The outcome with the line of a check about packages; HostError when one is required."""
    if not missing or choice == REPORT:
        return outcome
    names = ", ".join(missing)
    if choice == REQUIRE:
        raise HostError(
            f"missing Debian packages: {names}",
            hint="install them, or let the role do so (sandbox_host_packages: true)",
        )
    if not check:
        return outcome
    return Outcome(changed=True, actions=[*outcome.actions, f"packages: install {names}"])
