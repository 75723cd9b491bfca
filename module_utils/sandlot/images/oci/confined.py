# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs a program that reads untrusted data, as a user of its own with one writable directory."""

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
from ...kernel.program import dying_with_parent, start
from ..program import ISOLATED
from .credentials import USER, Access
from .reference import Reference

# A directory that every host has and nobody keeps files in. The scratch directory's own path is
# out of reach, as no other user may enter the state directory.
SCRATCH = "/dev/pts"


@dataclass(frozen=True)
class Start:
    """How to start the program; ``scratch`` is its writable directory, mounted at SCRATCH."""

    reference: Reference
    access: Access
    errors: int
    output: int
    scratch: str = ""

    @contextlib.contextmanager
    def process(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Start the program; it is killed with this process and at the end of the block."""
        die_with_parent = dying_with_parent()

        def prepare() -> None:
            die_with_parent()
            if self.scratch:
                unshare(CLONE_NEWNS)
                mount("none", "/", flags=MS_REC | MS_PRIVATE)
                mount(self.scratch, SCRATCH, flags=MS_BIND)

        if self.scratch:
            os.chown(self.scratch, USER, USER)
        process = start(
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
    """The command that drops rights. For a registry it keeps no capability; for files of the host
    it keeps root's right to read them, and has no network to send them to."""
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    # After the change of ids, as the kernel clears the death signal with it.
    drop = ["setpriv", *ids, "--pdeathsig", "KILL"]
    if reference.is_remote:
        return [*ISOLATED, "--mount-proc", *drop, "--inh-caps=-all", "--bounding-set=-all"]
    kept = "-all,+dac_read_search"
    sets = [f"--{name}={kept}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    return [*ISOLATED, "--net", "--mount-proc", *drop, *sets]


def check_plain(directory: str, what: str) -> None:
    """Refuse everything but regular files, before a file is opened by name."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            states = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    finally:
        os.close(fd)
    for name, state in states.items():
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise HostError(f"{what}: skopeo left {name!r}, which is no plain file")
