# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Answers with one text, and the path that was asked for."""

from __future__ import annotations

import sys

import kit

options = dict(word.removeprefix("-").split("=", 1) for word in sys.argv[1:])
port = int(options.get("listen", ":5678").removeprefix(":"))
kit.serve(port, lambda _method, path, _body: (200, f"{options['text']} {path}"))
