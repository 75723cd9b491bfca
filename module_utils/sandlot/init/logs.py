# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Output of the workload as lines, which every sink gets.

Lines are in the format of Kubernetes' CRI: time, stream, F (full line) or P (part of one), text.
The builder opens the sinks, as init names no path of the host, and sends init their descriptors.
"""

from __future__ import annotations

import time

from .journal import Journal
from .ring import Ring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Protocol, Sequence, Tuple, Type

    from ..site import SandboxPaths

    class Sink(Protocol):
        # Bytes to be shown as lost in the status of the sandbox.
        lost: int
        # The number of descriptors and a state, as ``open`` returns them: for the warm-up.
        sample: Tuple[int, Any]

        @staticmethod
        def open(paths: SandboxPaths) -> Tuple[List[int], Any]:
            """Open the sink, in the builder: descriptors ([] for no sink) and a state for init."""

        def __init__(self, fds: Sequence[int], state: Any) -> None:
            """Take over what ``open`` has returned."""

        def configure(self, config: Mapping[str, Any]) -> None:
            """Take the options of the sandbox."""

        def saved(self) -> Any:
            """Return a state from which another process goes on with the same descriptors."""

        def restore(self, saved: Any) -> None:
            """Go on from a state that ``saved`` has returned."""

        def write(self, stream: str, entries: List[bytes]) -> None:
            """Write entries of one output."""

    # Name, number of descriptors, state.
    Opened = Tuple[str, int, Any]
    Saved = Tuple[Dict[str, bytes], List[Any]]

SINKS: Dict[str, Type[Sink]] = {"ring": Ring, "journal": Journal}
MAX_LINE = 16384


def open_sinks(paths: SandboxPaths) -> Tuple[List[Opened], List[int]]:
    """Open all sinks, in the builder: the sinks that opened, and their descriptors in order."""
    opened: List[Opened] = []
    descriptors: List[int] = []
    for name, sink in SINKS.items():
        fds, state = sink.open(paths)
        if fds:
            opened.append((name, len(fds), state))
            descriptors += fds
    return opened, descriptors


class Log:
    """Splits output into lines for all sinks."""

    def __init__(
        self, opened: Sequence[Opened], fds: Sequence[int], config: Mapping[str, Any]
    ) -> None:
        self._partial = {"stdout": b"", "stderr": b""}
        self._sinks: List[Sink] = []
        for name, count, state in opened:
            self._sinks.append(SINKS[name](fds[:count], state))
            fds = fds[count:]
        self.configure(config)

    def configure(self, config: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.configure(config)

    def saved(self) -> Saved:
        return self._partial.copy(), [sink.saved() for sink in self._sinks]

    def restore(self, saved: Saved) -> None:
        self._partial = saved[0].copy()
        for sink, state in zip(self._sinks, saved[1]):
            sink.restore(state)

    @property
    def lost(self) -> int:
        return sum([sink.lost for sink in self._sinks])

    def feed(self, stream: str, data: bytes) -> None:
        """Log output; an unfinished line waits for its end."""
        lines = (self._partial[stream] + data).split(b"\n")
        rest = lines.pop()
        stamp = _timestamp()
        entries = [entry for line in lines for entry in _entries(stamp, stream, line)]
        while len(rest) >= MAX_LINE:
            entries.append(_entry(stamp, stream, b"P", rest[:MAX_LINE]))
            rest = rest[MAX_LINE:]
        self._partial[stream] = rest
        self._write(stream, entries)

    def flush(self, stream: str) -> None:
        """End of file of a stream: the rest is a line of its own."""
        rest, self._partial[stream] = self._partial[stream], b""
        if rest:
            self._write(stream, _entries(_timestamp(), stream, rest))

    def _write(self, stream: str, entries: List[bytes]) -> None:
        if entries:
            for sink in self._sinks:
                sink.write(stream, entries)


def _entries(stamp: str, stream: str, line: bytes) -> List[bytes]:
    """A whole line: parts of MAX_LINE bytes, the last one marked as full."""
    entries = []
    while len(line) > MAX_LINE:
        entries.append(_entry(stamp, stream, b"P", line[:MAX_LINE]))
        line = line[MAX_LINE:]
    return [*entries, _entry(stamp, stream, b"F", line)]


def _entry(stamp: str, stream: str, tag: bytes, text: bytes) -> bytes:
    return f"{stamp} {stream} ".encode() + tag + b" " + text + b"\n"


def _timestamp() -> str:
    nanoseconds = time.time_ns()
    t = time.gmtime(nanoseconds // 1_000_000_000)
    date = f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}"
    clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
    return f"{date}T{clock}.{nanoseconds % 1_000_000_000:09d}Z"
