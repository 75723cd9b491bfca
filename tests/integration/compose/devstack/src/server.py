# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Says what is in the database; `seed` fills it."""

from __future__ import annotations

import os
import sys

import kit
import psycopg2

CREATE = "CREATE TABLE IF NOT EXISTS fruits (name TEXT PRIMARY KEY)"


def ask(query: str) -> list[tuple[str, ...]]:
    return kit.rows(psycopg2.connect(""), f"{CREATE}; {query}")


def answer(_method: str, _path: str, _body: str) -> tuple[int, str]:
    names = ", ".join(row[0] for row in ask("SELECT name FROM fruits ORDER BY name"))
    return 200, f"{os.environ['STAGE']}: {names}"


if sys.argv[1:] == ["seed"]:
    ask("INSERT INTO fruits VALUES ('apple'), ('pear') ON CONFLICT DO NOTHING")
else:
    kit.serve(8000, answer)
