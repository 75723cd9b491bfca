# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes a page of each Markdown file, then ends."""

from __future__ import annotations

import sys
from pathlib import Path

options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
source, destination = Path(options["source"]), Path(options["destination"])
title = next(
    line.partition("=")[2].strip(' "')
    for line in (source / "config.toml").read_text().splitlines()
    if line.startswith("title")
)
for page in sorted((source / "content").glob("*.md")):
    text = page.read_text().strip()
    (destination / f"{page.stem}.html").write_text(f"<h1>{title}</h1>\n<p>{text}</p>\n")
    print(f"built {page.stem}")
