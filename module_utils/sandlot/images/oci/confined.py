# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A program that reads what strangers send: a user of its own, and one directory to write to."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from dataclasses import dataclass
from typing import Iterator, List, Sequence

from ...errors import HostError
from ...kernel.mounts import MS_BIND, MS_PRIVATE, MS_REC, mount
from ...kernel.namespaces import CLONE_NEWNS, unshare
from ...kernel.program import dying_with_parent
from ..program import ISOLATED
from .credentials import USER, Access
from .reference import Reference

# A directory that every host has and nobody keeps files in. The scratch directory's own path is
# out of reach, as no other user may enter the state directory.
SCRATCH = "/dev/pts"


@dataclass(frozen=True)
class Start:
    """``scratch`` is the directory that it may write to, which it sees as SCRATCH."""

    reference: Reference
    access: Access
    errors: int
    output: int
    scratch: str = ""

    @contextlib.contextmanager
    def process(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A process that ends with this one, and with the block."""
        die_with_parent = dying_with_parent()

        def prepare() -> None:
            die_with_parent()
            if self.scratch:
                unshare(CLONE_NEWNS)
                mount("none", "/", flags=MS_REC | MS_PRIVATE)
                mount(self.scratch, SCRATCH, flags=MS_BIND)

        if self.scratch:
            os.chown(self.scratch, USER, USER)
        process = subprocess.Popen(
            [*_confinement(self.reference), *words],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.errors,
            env=self.access.environment,
            cwd="/",
            pass_fds=self.access.fds,
            preexec_fn=prepare,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
            if self.scratch:
                os.chown(self.scratch, os.geteuid(), os.getegid())


def _confinement(reference: Reference) -> List[str]:
    """No capability for a registry. Files of the host may be root's alone, so they are read with
    root's right to read, but without a network to send them to."""
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    # The kernel forgets what unshare asked for with a change of ids.
    drop = ["setpriv", *ids, "--pdeathsig", "KILL"]
    if reference.is_remote:
        return [*ISOLATED, "--mount-proc", *drop, "--inh-caps=-all", "--bounding-set=-all"]
    kept = "-all,+dac_read_search"
    sets = [f"--{name}={kept}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    return [*ISOLATED, "--net", "--mount-proc", *drop, *sets]


def check_plain(directory: str, what: str) -> None:
    """Refuse all but files, before anybody opens one by its name."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            states = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    finally:
        os.close(fd)
    for name, state in states.items():
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise HostError(f"{what}: skopeo left {name!r}, which is no plain file")
