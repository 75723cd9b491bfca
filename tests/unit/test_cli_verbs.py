# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The rows of the verbs, and the manual page."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

from sandlot.cli import manual
from sandlot.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
WRITES_MANUAL = (
    "PYTHONPATH=module_utils python3 -c \"from sandlot.cli import main; main(['manual'])\" "
    "> docs/sandlot.8"
)


def test_every_verb_is_there() -> None:
    for verb in VERBS:
        module, _, function = verb.run.partition(".")
        assert callable(getattr(importlib.import_module(f"sandlot.cli.{module}"), function))


# -- the manual page


def test_the_manual_page_is_that_of_the_table() -> None:
    written = (ROOT / "docs/sandlot.8").read_text()
    assert written == manual.page(), f"run in the checkout: {WRITES_MANUAL}"


def test_the_command_of_the_message_prints_the_manual_page() -> None:
    command = WRITES_MANUAL.rpartition(" > ")[0]
    assert command in (ROOT / "docs/extending.md").read_text()
    shell = ["sh", "-c", command]
    run = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == manual.page()
