# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Where all parts measure: how much, below which directory, and podman beside."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Tuple

from collection import NotAvailable
from ours import SUBNET, Ours
from peer import Peer

# Not /tmp, which may be memory: sandboxes and containers live on disks.
TEMPORARY = "/var/tmp"
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are what the budgets speak of."""

    repetitions: int = 3
    turns: int = 9
    """Of what takes seconds."""
    quick: int = 15
    """Of what takes a fraction of a second."""
    few: int = 10
    many: int = 100
    crowd: int = 300
    growth: Tuple[int, ...] = (10, 100, 1000)
    peer_few: int = 2
    peer_many: int = 10
    peer_crowd: int = 50
    idle_seconds: float = 10.0
    checks: int = 10
    lines: int = 100
    pumps: int = 40
    pump_seconds: float = 0.4
    packets: int = 20000
    requests: int = 1000
    visits: int = 5
    jobs: int = 1000
    large: int = 400 << 20
    database_seconds: int = 6
    database_scale: int = 20
    kept: int = 10 << 30
    fleet: Tuple[int, ...] = (1, 4, 16, 200)
    """Hosts."""


SMALL = Sizes(
    repetitions=2,
    turns=2,
    quick=3,
    few=2,
    many=6,
    crowd=6,
    growth=(2, 6, 12),
    peer_few=1,
    peer_many=3,
    peer_crowd=4,
    idle_seconds=3.0,
    pumps=4,
    packets=2000,
    requests=50,
    visits=1,
    jobs=20,
    large=20 << 20,
    database_seconds=1,
    database_scale=1,
    kept=100 << 20,
    fleet=(1, 2, 3, 4),
)


@contextmanager
def file_system(kind: str, image: Path, size: int, *options: str) -> Iterator[Path]:
    """The top of a new file system in a sparse file of that size."""
    with open(image, "wb") as handle:
        handle.truncate(size)
    top = image.with_suffix("")
    top.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, stdout=subprocess.DEVNULL)
    mount = ["mount", "-o", ",".join(("loop", *options)), str(image), str(top)]
    subprocess.run(mount, check=True)
    try:
        yield top
    finally:
        subprocess.run(["umount", str(top)], check=True)
        image.unlink()
        top.rmdir()


class Bench:
    """One run; ``remains`` has what teardowns left, ``reasons`` why something has no figure.

    ``directory`` is in a file system of its own, ``outside`` in that of the machine.
    """

    def __init__(self, directory: Path, outside: Path, sizes: Sizes, *, podman: bool) -> None:
        self.directory = directory
        self.outside = outside
        self.sizes = sizes
        self.remains: list[str] = []
        self.reasons: dict[str, str] = {} if podman else {"podman": "--no-podman was given"}
        self._peer: Peer | None = None
        self._stack = ExitStack()

    @contextmanager
    def ours(self, top: Path | None = None, subnet: str = SUBNET) -> Iterator[Ours]:
        """A root for sandlot, on a file system of its own if ``top`` is given."""
        ours = Ours(Path(tempfile.mkdtemp(dir=top or self.directory)), subnet)
        try:
            yield ours
        finally:
            with undisturbed():
                self.remains += ours.clean_up()

    def peer(self) -> Peer | None:
        """None where there is no podman that works."""
        if self._peer is None and "podman" not in self.reasons:
            try:
                peer = Peer(self.directory)
                self._stack.callback(peer.close)
                peer.prepare()
                self._peer = peer
            except NotAvailable as error:
                print(f"  podman: not measured: {error}", flush=True)
                self.reasons["podman"] = str(error)
        return self._peer

    def tidy(self) -> None:
        """The next part finds no containers."""
        if self._peer is not None:
            self._peer.remove_all()

    def close(self) -> None:
        with undisturbed():
            self._stack.close()


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal waits until all is cleaned up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def say(text: str) -> None:
    print(f"  {text}", flush=True)
