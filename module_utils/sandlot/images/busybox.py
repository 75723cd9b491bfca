# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "busybox": a root file system around the distribution's busybox.

A static busybox is the only program of its tree, and its shell prefers its own applets to other
programs. The one with libraries looks programs up, so its tree can have better ones: ping of
iputils, which needs no capability, and an nslookup that knows /etc/hosts.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from typing import Any, Iterable, List, Mapping, Sequence

from ..errors import HostError
from ..kernel import elf
from ..kernel.program import PATH, run
from . import host, programs, provenance
from .model import Built, Image, ImageSpec, Job, Source

# Parts of the digest: raise one when this module builds another tree of the same files.
STATIC_LAYOUT = "1"
LAYOUT = "2"
_INSTALL = "Debian: apt install busybox"
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
# They need raw sockets, which a sandbox has only with NET_RAW.
_RAW = frozenset(("arping", "ping", "ping6", "traceroute", "traceroute6"))
# Before glibc 2.34, modules of their own look up names in files and by DNS.
_NAME_MODULES = ("libnss_files.so.2", "libnss_dns.so.2")
_NSLOOKUP = """\
#!/bin/sh
# Sandboxes are in /etc/hosts; busybox's nslookup asks name servers only.
if [ $# = 1 ]; then
  awk -v asked="$1" '
    /^#/ { next }
    $1 == asked { print asked "\\tname = " $2; found = 1 }
    { for (i = 2; i <= NF; i++) if (tolower($i) == tolower(asked)) {
        print "Name:\\t" asked "\\nAddress: " $1; found = 1 } }
    END { exit !found }
  ' /etc/hosts && exit
fi
exec busybox nslookup "$@"
"""
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
    """The digest; None when this host has no busybox, so that an earlier image stays."""
    binary = find()
    if binary is None:
        return None
    hashed = _hashed(binary, known.evidence if known else {})
    contents = "".join(entry[-1] for entry in hashed.values())
    layout = LAYOUT if programs.linker(binary) else STATIC_LAYOUT
    return hashlib.sha256(f"busybox layout {layout}\n{contents}".encode()).hexdigest()


def _hashed(binary: str, known: Mapping[str, Any]) -> provenance.Evidence:
    """Hash busybox, and what comes along; unchanged files are neither read nor looked up again."""
    tops = _programs(binary)
    try:
        hashed = provenance.hashed(sorted(known), known)
        if set(tops) <= set(hashed) and hashed == known:
            return hashed
    except FileNotFoundError:
        pass  # a library has another name now
    return provenance.hashed(sorted({*tops, *_libraries(tops).files}), known)


def _programs(binary: str) -> List[str]:
    return [binary, *(_ping() if programs.linker(binary) else ())]


def _ping() -> Sequence[str]:
    """The host's ping, if it is the one of iputils."""
    path = shutil.which("ping", path=PATH)
    # On some systems, ping is a link to busybox.
    return (path,) if path and programs.linker(path) and "iputils" in _version(path) else ()


@functools.cache
def _version(path: str) -> str:
    return run([path, "-V"], env={"PATH": PATH}).stdout


def _libraries(paths: Iterable[str]) -> programs.Found:
    """Libraries of these programs, where the dynamic linker looks for them."""
    taken = programs.Found()
    for path in paths:
        for library in taken.libraries_of(path):
            # libc.so.6, or before glibc 2.34 the file that it leads to, libc-2.31.so.
            is_libc = os.path.basename(library).startswith(("libc.", "libc-"))
            for name in _NAME_MODULES if is_libc else ():
                module = f"{os.path.dirname(library)}/{name}"
                if os.path.exists(module):
                    taken.path(module)
    return taken


def build(job: Job) -> Built:
    root, binary = job.root, find()
    if binary is None:
        raise HostError(
            f"image {job.spec.name!r}: this host has no busybox", hint=f"install it ({_INSTALL})"
        )
    for name, mode in _DIRECTORIES.items():
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", mode)
    for name, target in _LINKS.items():
        os.symlink(target, f"{root}/{name}")
    for name, text in _FILES.items():
        _write(f"{root}/{name}", text)
    _copy(binary, f"{root}/bin/busybox")
    applets = _applets(binary)
    evidence = provenance.hashed([binary], {})
    if programs.linker(binary):
        evidence = _hashed(binary, {})
        applets = _others(job, binary, applets)
    for applet in applets:
        if applet != "busybox" and "/" not in applet:
            os.symlink("busybox", f"{root}/bin/{applet}")
    return Built(evidence=evidence)


def _applets(binary: str) -> List[str]:
    """The names of applets, from the host's own program: images may lie where none may run."""
    output = run([binary, "--list"], env={})
    applets = output.stdout.split()
    if output.returncode or "sh" not in applets:
        raise HostError(
            f"{binary} --list ended with status {output.returncode} and named no shell",
            hint=f"install a busybox with applets ({_INSTALL})",
        )
    return applets


def _others(job: Job, binary: str, applets: Sequence[str]) -> List[str]:
    """Add libraries and the programs in place of applets; returns the applets that are left."""
    root, tops = job.root, _programs(binary)
    taken = _libraries(tops)
    host.place(taken, root, job.report)
    _write(f"{root}/etc/nsswitch.conf", host.NSSWITCH)
    programs.make_loader_cache(root, sorted(taken.libraries))
    if "nslookup" in applets:
        _write(f"{root}/bin/nslookup", _NSLOOKUP, 0o755)
    for ping in tops[1:]:
        _copy(ping, f"{root}/bin/ping")
        os.symlink("ping", f"{root}/bin/ping6")
    return [name for name in applets if name not in (*_RAW, "nslookup")]


def _write(path: str, text: str, mode: int = 0o644) -> None:
    with open(path, "xb") as handle:
        handle.write(text.encode())
        os.fchmod(handle.fileno(), mode)


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)


def find() -> str | None:
    """The first busybox of this host."""
    on_path = shutil.which("busybox")
    for path in dict.fromkeys((*CANDIDATES, on_path)):
        if path and _is_program(path):
            return path
    return None


def _is_program(path: str) -> bool:
    try:
        with open(path, "rb") as handle:
            elf.interpreter(handle)
    except (FileNotFoundError, elf.NotElf):
        return False
    return True


def packages() -> List[str]:
    """Packages that this host lacks; ping alone is no reason to fail a deploy."""
    return ["busybox", "iputils-ping"] if find() is None else []


SOURCE = Source(
    description="the host's own busybox with links for its applets",
    digest=digest,
    build=build,
)
