# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes foreign text safe to show."""

from __future__ import annotations


def harmless(text: str) -> str:
    """One printable line; characters that could control a terminal are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
