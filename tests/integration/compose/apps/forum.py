# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Topics in PostgreSQL; its worker counts the words of each, as redis lists them."""

from __future__ import annotations

import os
import sys

import kit
import psycopg2

SETTINGS = {
    "host": os.environ["FORUM_DB_HOST"],
    "user": os.environ["FORUM_DB_USERNAME"],
    "password": os.environ["FORUM_DB_PASSWORD"],
    "dbname": os.environ["FORUM_DB_NAME"],
}
redis = kit.Redis(f"redis://{os.environ['FORUM_REDIS_HOST']}")


def ask(query: str, *values: object) -> list[tuple[object, ...]]:
    return kit.rows(psycopg2.connect(**SETTINGS), query, *values)


def answer(method: str, path: str, body: str) -> tuple[int, str]:
    if method == "POST":
        number = ask("INSERT INTO topics (text) VALUES (%s) RETURNING id", body)[0][0]
        redis("LPUSH", "topics", number)
        return 200, str(number)
    row = ask("SELECT text, words FROM topics WHERE id = %s", path.rpartition("/")[2])
    site = os.environ["FORUM_SITE_NAME"]
    return (200, f"{site}: {row[0][0]} ({row[0][1]} words)") if row else (404, "no such topic")


def work() -> None:
    print("waiting for topics", flush=True)
    while True:
        _, number = redis("BRPOP", "topics", 0)
        text = ask("SELECT text FROM topics WHERE id = %s", number)[0][0]
        ask("UPDATE topics SET words = %s WHERE id = %s", len(str(text).split()), number)


if sys.argv[1:] == ["worker"]:
    work()
else:
    ask("CREATE TABLE IF NOT EXISTS topics (id SERIAL PRIMARY KEY, text TEXT, words INTEGER)")
    kit.serve(int(os.environ["FORUM_PORT"]), answer)
