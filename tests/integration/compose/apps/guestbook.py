# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Entries in PostgreSQL, read through redis; `migrate` makes the table."""

from __future__ import annotations

import os
import sys

import kit
import psycopg2

URL = os.environ["DATABASE_URL"]


def ask(query: str, *values: str) -> list[tuple[str, ...]]:
    return kit.rows(psycopg2.connect(URL), query, *values)


def answer(method: str, path: str, body: str) -> tuple[int, str]:
    cache = kit.Redis(os.environ["REDIS_URL"])
    if path == "/healthz":
        return 200, "ok"
    if path != "/entries":
        return 404, "not found"
    if method == "POST":
        ask("INSERT INTO entries (text) VALUES (%s)", body)
        cache("DEL", "entries")
        return 200, "written"
    kept = cache("GET", "entries")
    if kept is not None:
        return 200, f"cache: {kept}"
    text = ", ".join(row[0] for row in ask("SELECT text FROM entries ORDER BY id"))
    cache("SET", "entries", text, "EX", 300)
    return 200, f"database: {text}"


if sys.argv[1:] == ["migrate"]:
    ask("CREATE TABLE entries (id SERIAL PRIMARY KEY, text TEXT NOT NULL)")
    print("migrated")
else:
    kit.serve(int(os.environ.get("PORT", "8000")), answer)
