# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Pages in SQLite."""

from __future__ import annotations

import os
import sqlite3

import kit

FILE = os.environ["WIKI_DB_FILE"]
TITLE = os.environ.get("WIKI_TITLE", "Wiki")


def ask(query: str, *values: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(FILE) as database:
        database.execute("CREATE TABLE IF NOT EXISTS pages (path TEXT PRIMARY KEY, text TEXT)")
        return database.execute(query, values).fetchall()


def answer(method: str, path: str, body: str) -> tuple[int, str]:
    if path == "/healthz":
        return 200, "ok"
    if method == "PUT":
        ask("INSERT OR REPLACE INTO pages VALUES (?, ?)", path, body)
        return 200, "saved"
    found = ask("SELECT text FROM pages WHERE path = ?", path)
    return (200, f"{TITLE}: {found[0][0]}") if found else (404, "no such page")


kit.serve(int(os.environ.get("PORT", "3000")), answer)
