# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the README has its reader type."""

from __future__ import annotations

import re
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
_TEXT = (TREE / "README.md").read_text()


def blocks(heading: str, kind: str = "sh") -> list[str]:
    """The code blocks of a kind below a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", _TEXT, re.M | re.S)
    return re.findall(rf"^```{kind}\n(.*?)^```$", section, re.M | re.S)


def commands(heading: str) -> list[str]:
    """Line by line, without what a line says about itself."""
    lines = "".join(blocks(heading)).splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines if line and line[0] != "#"]


def packages() -> tuple[str, ...]:
    """What the README has its reader install first."""
    (names,) = re.findall(r"^sudo apt install (.*)$", "\n".join(commands("Two commands")), re.M)
    return tuple(names.split())


def inventory() -> str:
    (text,) = blocks("An inventory", "yaml")
    return text
