# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Looks for a value wherever a host could show it: files, processes, memory."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

_LARGEST = 256 << 20


class Marker:
    """A value that nothing else has, and all that would give it away: as it is, in base64, hex."""

    def __init__(self) -> None:
        self.text = f"Marker{secrets.token_hex(24)}"
        value = self.text.encode()
        # Wherever it begins in what was encoded; the characters at the ends have neighbours' bits.
        shifted = [
            base64.b64encode(bytes(shift) + value)[4 * bool(shift) : -4] for shift in range(3)
        ]
        self._forms = (value, value.hex().encode(), *shifted)

    def is_in(self, data: bytes) -> bool:
        return any(form in data for form in self._forms)


def in_files(marker: Marker, *tops: str | Path) -> set[str]:
    """Files, links and names below directories that have it."""
    return {path for top in tops for path in _below(top) if _has(marker, path)}


def _below(top: str | Path) -> Iterator[str]:
    """Pins of namespaces aside, which can't be read."""
    for directory, names, files in os.walk(top):
        if not directory.endswith("/ns"):
            yield from (f"{directory}/{name}" for name in [*names, *files])


def _has(marker: Marker, path: str) -> bool:
    if marker.is_in(os.fsencode(path)):
        return True
    # A file may go while others run beside this test.
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return marker.is_in(os.fsencode(os.readlink(path)))
        return stat.S_ISREG(mode) and marker.is_in(Path(path).read_bytes())
    return False


def in_processes(marker: Marker) -> set[tuple[int, str]]:
    """Processes of the machine with it in their arguments or environment."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            # Processes end meanwhile; a virtual machine's PID 1 may refuse.
            refused = PermissionError if pid == "1" else ProcessLookupError
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, refused):
                if marker.is_in(Path(f"/proc/{pid}/{name}").read_bytes()):
                    found.add((int(pid), name))
    return found


def in_memory(marker: Marker, pids: Iterable[int]) -> set[int]:
    """Processes whose memory has it, or a file without a name that they hold (memfd_create)."""
    return {pid for pid in pids if any(map(marker.is_in, held_by(pid)))}


def held_by(pid: int) -> Iterator[bytes]:
    """All that a process has in memory, and in files without a name."""
    yield from _memory(pid)
    yield from _memory_files(pid)


def _memory_files(pid: int) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            # A descriptor may be closed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(fd).startswith("/memfd:"):
                    yield fd.read_bytes()


def _memory(pid: int) -> Iterator[bytes]:
    # Init forks for each healthcheck; such a process may have ended.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                span, flags, *_ = line.split()
                start, end = (int(each, 16) for each in span.split("-"))
                if "r" not in flags or line.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                    continue
                assert end - start < _LARGEST, line
                yield _read(memory, start, end)


def _read(memory: FileIO, start: int, end: int) -> bytes:
    memory.seek(start)
    try:
        return memory.read(end - start)
    except OSError as error:
        # Given back to the kernel meanwhile.
        if error.errno != errno.EIO:
            raise
        return b""
