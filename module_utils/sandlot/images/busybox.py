# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "busybox": a root file system around the distribution's static busybox."""

from __future__ import annotations

import hashlib
import os
import shutil

from ..errors import HostError
from ..kernel.program import run
from . import elf, provenance
from .model import Built, Image, ImageSpec, Job, Source

# Part of the digest: raise it when this module builds another tree of the same binary.
LAYOUT = "1"
CANDIDATES = ("/bin/busybox", "/usr/bin/busybox")

_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "var": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}
_LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "var/run": "../run"}
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "etc/group": "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
}


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    """The digest; None when this host has no static busybox, so that an earlier image stays."""
    binary = find()
    if binary is None:
        return None
    hashed = provenance.hashed([binary], known.evidence if known else {})
    contents = "".join(entry[-1] for entry in hashed.values())
    return hashlib.sha256(f"busybox layout {LAYOUT}\n{contents}".encode()).hexdigest()


def build(job: Job) -> Built:
    root, binary = job.root, find()
    if binary is None:
        raise HostError(
            f"image {job.spec.name!r}: this host has no statically linked busybox",
            hint="install it (Debian: apt install busybox-static)",
        )
    for name, mode in _DIRECTORIES.items():
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", mode)
    for name, target in _LINKS.items():
        os.symlink(target, f"{root}/{name}")
    for name, text in _FILES.items():
        with open(f"{root}/{name}", "xb") as handle:
            handle.write(text.encode())
            os.fchmod(handle.fileno(), 0o644)
    copy = f"{root}/bin/busybox"
    shutil.copyfile(binary, copy)
    os.chmod(copy, 0o755)
    output = run([copy, "--list"], env={})
    applets = output.stdout.split()
    if output.returncode or "sh" not in applets:
        raise HostError(
            f"{copy} --list ended with status {output.returncode} and named no shell",
            hint="install a busybox with applets (Debian: apt install busybox-static)",
        )
    for applet in applets:
        if applet != "busybox" and "/" not in applet:
            os.symlink("busybox", f"{root}/bin/{applet}")
    return Built(evidence=provenance.hashed([binary], {}))


def find() -> str | None:
    """The first static busybox of this host."""
    on_path = shutil.which("busybox")
    for path in dict.fromkeys((*CANDIDATES, on_path)):
        if path and is_static(path):
            return path
    return None


def is_static(path: str) -> bool:
    """Whether this is an ELF program that asks for no dynamic linker."""
    try:
        with open(path, "rb") as handle:
            return elf.interpreter(handle) is None
    except (FileNotFoundError, elf.NotElf):
        return False


SOURCE = Source(
    description="the host's own static busybox with links for its applets",
    digest=digest,
    build=build,
)
