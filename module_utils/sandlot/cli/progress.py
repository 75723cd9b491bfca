# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Follows image builds until none is left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
from typing import Any, Dict, Optional

from .. import images
from ..images import progress
from ..kernel.inotify import Watch
from ..site import Site
from . import output

Json = Dict[str, Any]

_UP = "\x1b[{}A"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


def line(report: Json) -> str:
    """A line of progress, as "debian: download 45% 12M of 27M, 3.1M/s, 5s left"."""
    done, total = report["done"], report["total"]
    words = [f"{report['name']}: {report['phase']}"]
    if total:
        words.append(f"{100 * done // total}% {output.size(done)} of {output.size(total)}")
    elif done:
        words.append(output.size(done))
    speed, rest = rate(report), left(report)
    pace = f", {output.size(speed)}/s" if speed else ""
    return " ".join(words) + pace + ("" if rest is None else f", {output.span(rest)} left")


def rate(report: Json) -> int:
    """Bytes per second of the phase so far; 0 when it is unknown."""
    seconds = report.get("now", 0) - report.get("phase_started", 0)
    return int((report["done"] - report.get("phase_from", 0)) / seconds) if seconds > 0 else 0


def left(report: Json) -> Optional[float]:
    """Seconds until the phase ends at its rate so far; None when that can't be told."""
    speed, more = rate(report), report["total"] - report["done"]
    return more / speed if speed and more >= 0 and report["total"] else None


def with_pace(report: Json) -> Json:
    """A report with its rate in bytes per second, and the seconds that are left of its phase."""
    return {**report, "rate": rate(report), "left": left(report)}


class Watcher:
    """Redraws on a terminal, otherwise writes a line whenever there is news of an image."""

    def __init__(self, site: Site, *, as_json: bool) -> None:
        self._paths = site
        self._as_json = as_json
        self._redraws = sys.stdout.isatty() and not as_json
        self._shown: Dict[str, str] = {}
        self._started: Dict[str, float] = {}
        self._height = 0

    def run(self) -> None:
        """Follow until no build is left; the directory comes and goes with the builds."""
        with contextlib.suppress(FileNotFoundError):
            while True:
                with Watch(progress.directory(self._paths)) as watch:
                    if not self._follow(watch):
                        break
        self._update({})

    def _follow(self, watch: Watch) -> bool:
        """Show the present progress and wait for news; False when no build is left."""
        making = progress.observe(self._paths)
        self._update(making)
        # The watch is older than the look and misses no news; the end of a maker is news, too, as
        # a killed one leaves its file alone.
        with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as stack:
            pidfds = []
            for pid in {report["pid"] for report in making.values()}:
                pidfds.append(os.pidfd_open(pid))
                stack.callback(os.close, pidfds[-1])
            if making:
                select.select([watch.fd, *pidfds], [], [])
        return bool(making)

    def _update(self, making: Dict[str, Json]) -> None:
        ended = [self._ended(name) for name in self._shown if name not in making]
        lines = {
            name: json.dumps(with_pace(report)) if self._as_json else line(report)
            for name, report in making.items()
        }
        news = [text for name, text in lines.items() if self._shown.get(name) != text]
        if self._redraws:
            width = shutil.get_terminal_size().columns
            head = _UP.format(self._height) + "\r" if self._height else ""
            shown = [*ended, *lines.values()]
            body = "".join(f"{text[: width - 1]}{_CLEAR_LINE}\n" for text in shown)
            sys.stdout.write(head + body + _CLEAR_BELOW)
            self._height = len(lines)
        else:
            sys.stdout.writelines(f"{text}\n" for text in [*ended, *news])
        sys.stdout.flush()
        self._shown = lines
        self._started.update({name: report["started"] for name, report in making.items()})

    def _ended(self, name: str) -> str:
        image = images.observe(self._paths).get(name)
        made = image is not None and image.made >= self._started[name]
        size = image.size if image and made else 0
        if self._as_json:
            return json.dumps({"name": name, "phase": "done" if made else "ended", "size": size})
        return f"{name}: done, {output.size(size)}" if made else f"{name}: ended"
