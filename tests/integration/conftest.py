# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Fixtures of more than one module; they need root, a module asks for them by name."""

from __future__ import annotations

from sandboxes import fresh_host, module_host, sandbox_host

__all__ = ["fresh_host", "module_host", "sandbox_host"]
