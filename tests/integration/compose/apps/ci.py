# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A coordinator, which keeps pipelines in SQLite, and its agent, which runs their commands."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time

import kit

SECRET = os.environ["CI_AGENT_SECRET"]


def ask(query: str, *values: str) -> list[tuple[str, ...]]:
    with sqlite3.connect("/var/lib/ci/ci.sqlite") as database:
        database.execute("CREATE TABLE IF NOT EXISTS runs (command TEXT, state TEXT, log TEXT)")
        return database.execute(query, values).fetchall()


def answer(method: str, path: str, body: str) -> tuple[int, str]:
    if path == "/runs" and method == "POST":
        ask("INSERT INTO runs VALUES (?, 'pending', '')", body)
        return 200, ask("SELECT max(rowid) || '' FROM runs")[0][0]
    path, _, secret = path.partition("?secret=")
    if path == "/next":
        found = ask("SELECT rowid || ' ' || command FROM runs WHERE state = 'pending'")
        return (200, found[0][0] if found else "") if secret == SECRET else (401, "who are you?")
    number = path.rpartition("/")[2]
    if method == "PUT" and secret == SECRET:
        state, _, log = body.partition(" ")
        ask("UPDATE runs SET state = ?, log = ? WHERE rowid = ?", state, log, number)
    return 200, ask("SELECT state || ': ' || log FROM runs WHERE rowid = ?", number)[0][0]


def agent() -> None:
    host, _, port = os.environ["CI_SERVER"].partition(":")
    while True:
        try:
            job = kit.request(host, int(port), "GET", f"/next?secret={SECRET}")
        except ConnectionRefusedError:
            job = ""
        if not job:
            time.sleep(0.1)
            continue
        number, _, command = job.partition(" ")
        with tempfile.TemporaryDirectory(dir="/builds") as work:
            done = subprocess.run(["sh", "-c", command], cwd=work, capture_output=True, text=True)
        result = f"{'failure' if done.returncode else 'success'} {done.stdout}{done.stderr}"
        kit.request(host, int(port), "PUT", f"/runs/{number}?secret={SECRET}", result)


if sys.argv[1:] == ["agent"]:
    agent()
else:
    kit.serve(8000, answer)
