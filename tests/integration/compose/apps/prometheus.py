# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Collects numbers from its targets, and keeps the last one of each name."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

import kit

options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
samples: dict[str, str] = {}


def scrape() -> None:
    text = Path(options["config.file"]).read_text()
    targets = re.findall(r"[\w.-]+:\d+", "".join(re.findall(r"targets: \[(.*)\]", text)))
    while True:
        for target in targets:
            host, _, port = target.partition(":")
            try:
                lines = kit.request(host, int(port), "GET", "/metrics").splitlines()
            except OSError as error:
                print(f"{target}: {error}", flush=True)
                continue
            samples.update(line.split() for line in lines if not line.startswith("#"))
            Path(options["storage.tsdb.path"], "samples").write_text(repr(samples))
        time.sleep(0.5)


def answer(_method: str, path: str, _body: str) -> tuple[int, str]:
    if path == "/-/healthy":
        return 200, "healthy"
    name = path.rpartition("query=")[2]
    return (200, samples[name]) if name in samples else (404, "no data")


threading.Thread(target=scrape, daemon=True).start()
kit.serve(9090, answer)
