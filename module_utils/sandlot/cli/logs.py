# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot logs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import json
import os
import re
import select
import sys
import time
from typing import BinaryIO, Callable, Iterable, Iterator, Optional

from ..errors import SandlotError
from ..kernel.inotify import Watch
from ..sandbox import names, runtime
from ..sandbox.logs import Line, Ring
from ..site import Site

_AGE = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# A log must not control the terminal of its reader; tabs and colours are let through.
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_CONTROL = re.compile(rb"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]")
_PLAIN = b"\x1b[0m"

Writer = Callable[[Line], None]


def run(site: Site, options: argparse.Namespace) -> int:
    name = names.check(site, options.name)
    since = _moment(options.since) if options.since else ""
    writer = _json if options.format == "json" else _text(timestamps=options.timestamps)
    with contextlib.closing(Ring(site.sandbox(name))) as ring:
        if not options.follow:
            _write(_selected(ring.lines(), since, options.tail), writer)
            return 0
        # Watch before the first look, so that no change is missed in between.
        with Watch(site.sandbox(name).state) as watch, _init(site, name) as init:
            _write(_selected(ring.lines(), since, options.tail), writer)
            while _changed(watch, init):
                _write(_selected(ring.lines(), since), writer)
            _write(_selected(ring.lines(), since), writer)
    return 0


def _moment(text: str) -> str:
    """Parse a time option; the result is in the notation of the log."""
    age = _AGE.fullmatch(text)
    try:
        if age:
            seconds = time.time() - int(age[1]) * _SECONDS[age[2]]
        elif text.replace(".", "", 1).isdigit():
            seconds = float(text)
        else:
            # Python 3.9 can't parse "Z".
            seconds = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise SandlotError(
            f"since: {text!r} is no time", hint="write 10m, 2h, 2026-01-31T12:00:00Z or seconds"
        ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")


def _selected(lines: Iterable[Line], since: str, tail: Optional[int] = None) -> Iterator[Line]:
    recent = (line for line in lines if line.time >= since)
    return recent if tail is None else iter(collections.deque(recent, maxlen=tail))


@contextlib.contextmanager
def _init(site: Site, name: str) -> Iterator[Optional[int]]:
    """A pidfd of init, None when it does not run."""
    pidfd = runtime.open_init(site.sandbox(name))
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _changed(watch: Watch, init: Optional[int]) -> bool:
    """Wait for the log to change; False when init, its writer, has ended."""
    if init is None:
        return False
    poller = select.poll()
    poller.register(watch.fd, select.POLLIN)
    poller.register(init, select.POLLIN)
    ready = [fd for fd, dummy in poller.poll()]
    watch.clear()
    return init not in ready


def _write(lines: Iterable[Line], writer: Writer) -> None:
    for line in lines:
        writer(line)
    sys.stdout.flush()
    sys.stderr.flush()


def _json(line: Line) -> None:
    text = line.text.decode("utf-8", "replace")
    record = {"time": line.time, "stream": line.stream, "line": text}
    sys.stdout.write(json.dumps(record) + "\n")


def _text(*, timestamps: bool) -> Writer:
    """A function that writes a line to the stream which the workload used."""
    streams = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    tame = {stream: file.isatty() for stream, file in streams.items()}

    def write(line: Line) -> None:
        file: BinaryIO = streams[line.stream]
        stamp = f"{line.time} ".encode() if timestamps else b""
        file.write(stamp + (_visible(line.text) if tame[line.stream] else line.text) + b"\n")

    return write


def _visible(text: bytes) -> bytes:
    shown = _CONTROL.sub(lambda match: b"".join(b"\\x%02x" % byte for byte in match[0]), text)
    return shown + _PLAIN if _COLOUR.search(shown) else shown
