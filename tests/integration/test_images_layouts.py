# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Root file systems laid out as Alpine and Ubuntu publish them, unchanged, as sandboxes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import static_busybox
from converge_fixtures import Deployment, deployed, needs_root, sandbox
from image_fixtures import output, prepare
from sandlot import images

pytestmark = needs_root
BUSYBOX = static_busybox.PROGRAM.read_bytes()


class Builder:
    """Members as `tar --numeric-owner -C root -c .` writes them."""

    def __init__(self, form: int) -> None:
        self.buffer = io.BytesIO()
        self.archive = tarfile.open(fileobj=self.buffer, mode="w", format=form)
        self.directory(".")

    def add(self, name: str, content: bytes = b"", **fields: object) -> None:
        member = tarfile.TarInfo("./" if name == "." else f"./{name}")
        member.size, member.mtime = len(content), 1_700_000_000.25
        for key, value in fields.items():
            setattr(member, key, value)
        self.archive.addfile(member, io.BytesIO(content))

    def directory(self, *names: str, mode: int = 0o755, gid: int = 0, uid: int = 0) -> None:
        for name in names:
            self.add(name, type=tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)

    def link(self, name: str, target: str) -> None:
        self.add(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)

    def done(self) -> bytes:
        self.archive.close()
        return self.buffer.getvalue()


ACCOUNTS = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"


def alpine() -> bytes:
    """Absolute links to busybox, /var/run a link, shadow for a group, sticky directories."""
    it = Builder(tarfile.PAX_FORMAT)
    it.directory("bin", "dev", "etc", "etc/apk", "home", "lib", "lib/apk", "lib/apk/db", "mnt")
    it.add("bin/busybox", BUSYBOX, mode=0o755)
    it.add("bin/bbsuid", BUSYBOX, mode=0o4111)
    for name in ("sh", "cat", "ls", "id", "sleep", "stat", "readlink", "touch"):
        it.link(f"bin/{name}", "/bin/busybox")
    it.directory("media", "media/cdrom", "opt", "proc", "run", "sbin", "srv", "sys", "usr")
    it.directory("root", mode=0o700)
    it.directory("tmp", mode=0o1777)
    it.add("etc/alpine-release", b"3.20.3\n", mode=0o644)
    it.add("etc/passwd", ACCOUNTS, mode=0o644)
    it.add("etc/shadow", b"root:*::0:::::\n", mode=0o640, gid=42)
    it.link("etc/mtab", "../proc/mounts")
    it.link("etc/os-release", "../usr/lib/os-release")
    it.link("lib/libc.musl-x86_64.so.1", "ld-musl-x86_64.so.1")
    it.add("lib/ld-musl-x86_64.so.1", b"\x7fELF", mode=0o755)
    it.directory("usr/bin", "usr/lib", "usr/sbin", "var", "var/cache", "var/lib", "var/log")
    it.add("usr/lib/os-release", b"ID=alpine\n", mode=0o644)
    it.link("usr/bin/env", "/bin/busybox")
    it.directory("var/empty", mode=0o555)
    it.directory("var/tmp", mode=0o1777)
    it.directory("var/spool", "var/spool/cron")
    it.directory("var/spool/cron/crontabs", mode=0o1730, gid=23)
    it.link("var/lock", "../run/lock")
    it.link("var/run", "../run")
    return it.done()


def ubuntu() -> bytes:
    """Merged /usr, device nodes, hard links, setgid programs, absolute links, large owners."""
    it = Builder(tarfile.GNU_FORMAT)
    for name in ("bin", "lib", "lib64", "sbin"):
        it.link(name, f"usr/{name}")
    it.directory(
        "bin.usr-is-merged", "boot", "dev", "dev/pts", "dev/shm", "etc", "etc/alternatives"
    )
    for number, name in enumerate(("null", "zero", "full", "random", "urandom", "tty")):
        it.add(f"dev/{name}", type=tarfile.CHRTYPE, devmajor=1, devminor=number + 3, mode=0o666)
    it.link("dev/fd", "/proc/self/fd")
    it.link("dev/stdin", "/proc/self/fd/0")
    it.directory("home", "media", "mnt", "opt", "proc", "run", "run/lock", "srv", "sys", "usr")
    it.directory("root", mode=0o700)
    it.directory("tmp", mode=0o1777)
    it.directory("usr/bin", "usr/games", "usr/include", "usr/lib", "usr/lib64", "usr/sbin")
    it.add("usr/bin/busybox", BUSYBOX, mode=0o755)
    it.add("usr/bin/dash", type=tarfile.LNKTYPE, linkname="./usr/bin/busybox")
    it.link("usr/bin/sh", "dash")
    for name in ("cat", "ls", "id", "sleep", "stat", "readlink", "touch"):
        it.link(f"usr/bin/{name}", "busybox")
    it.add("usr/bin/chage", b"#!/bin/sh\n", mode=0o2755, gid=42)
    it.add("usr/bin/perl", b"x" * 100, mode=0o755)
    it.add("usr/bin/perl5.38.2", type=tarfile.LNKTYPE, linkname="./usr/bin/perl")
    it.directory("usr/share", "usr/share/" + "long-name-" * 20)
    it.add("usr/share/" + "long-name-" * 20 + "/" + "ü" * 100, b"long", mode=0o644)
    it.add("etc/passwd", ACCOUNTS, mode=0o644)
    it.add("etc/shadow", b"root:*:19000::::::\n", mode=0o640, gid=42)
    it.link("etc/alternatives/awk", "/usr/bin/mawk")
    it.link("etc/mtab", "/proc/mounts")
    it.add("usr/lib/os-release", b"ID=ubuntu\n", mode=0o644)
    it.link("etc/os-release", "../usr/lib/os-release")
    it.directory("var", "var/cache", "var/cache/apt", "var/cache/apt/archives", "var/lib")
    it.directory("var/cache/apt/archives/partial", mode=0o700, uid=42, gid=65534)
    it.directory("var/local", mode=0o2775, gid=50)
    it.directory("var/mail", mode=0o2775, gid=8)
    it.link("var/lock", "/run/lock")
    it.link("var/run", "/run")
    it.directory("var/tmp", mode=0o1777)
    return it.done()


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


def image(
    host: Deployment, path: Path, name: str, data: bytes, compress: Callable[[bytes], bytes]
) -> images.Image:
    path.write_bytes(compress(data))
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    prepare(host, {"name": name, "source": "tarball", "path": str(path), "checksum": checksum})
    return images.lookup(host.paths, name)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def test_alpine(host: Deployment, tmp_path: Path) -> None:
    found = image(host, tmp_path / "minirootfs.tar.gz", "alpine", alpine(), gzip.compress)
    assert images.facts(host.paths, found)["warnings"] == []
    host.converged(sandbox("alpine", image="alpine"))
    assert output(host, "alpine", "cat", "/etc/os-release") == "ID=alpine\n"
    assert output(host, "alpine", "readlink", "/bin/sh") == "/bin/busybox\n"
    assert output(host, "alpine", "stat", "-c", "%a %u:%g", "/etc/shadow") == "640 0:42\n"
    assert output(host, "alpine", "stat", "-c", "%a", "/var/spool/cron/crontabs") == "1730\n"
    assert output(host, "alpine", "sh", "-c", "touch /var/run/x && ls /run") == "x\n"
    assert output(host, "alpine", "env", "id", "-u") == "0\n"


def test_ubuntu(host: Deployment, tmp_path: Path) -> None:
    found = image(host, tmp_path / "base.tar.xz", "ubuntu", ubuntu(), lzma.compress)
    left_out = images.facts(host.paths, found)["warnings"]
    assert len(left_out) == 6 and left_out[0] == "left out 'dev/full': a device or FIFO"
    host.converged(sandbox("ubuntu", image="ubuntu"))
    assert output(host, "ubuntu", "sh", "-c", "cat /etc/os-release </dev/null") == "ID=ubuntu\n"
    assert output(host, "ubuntu", "stat", "-c", "%h", "/bin/perl5.38.2") == "2\n"
    shown = output(host, "ubuntu", "stat", "-c", "%a %u:%g", "/var/cache/apt/archives/partial")
    assert shown == "700 42:65534\n"
    assert output(host, "ubuntu", "stat", "-c", "%a %g", "/bin/chage") == "2755 42\n"
    assert output(host, "ubuntu", "sh", "-c", "cat /usr/share/long-name-*/*") == "long"
    assert output(host, "ubuntu", "sh", "-c", "touch /var/lock/x && ls /run/lock") == "x\n"


@pytest.mark.parametrize("layout", [alpine, ubuntu])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
def test_nothing_of_it_is_lost(
    host: Deployment,
    tmp_path: Path,
    layout: Callable[[], bytes],
    compress: Callable[[bytes], bytes],
) -> None:
    """Compared with what tar makes of it, but for devices, which are left out."""
    data = layout()
    found = image(host, tmp_path / "archive", "compared", data, compress)
    (tmp_path / "tar").mkdir()
    command = ["tar", "-xp", "--numeric-owner", "-C", str(tmp_path / "tar")]
    subprocess.run(command, input=data, check=True)
    assert _listing(found.root) == _listing(str(tmp_path / "tar"))


def _listing(root: str) -> list[str]:
    form = "%P %y %m %U %G %s %l %n %T@\n"
    command = ["find", root, "-not", "-type", "c", "-type", "d", "-printf", "%P %y %m %U %G\n"]
    command += ["-o", "-not", "-type", "c", "-printf", form]
    shown = subprocess.check_output(command, text=True, errors="surrogateescape").splitlines()
    assert len(shown) > 40 and os.path.isdir(root)
    return sorted(shown)
