# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Hostile archives. Each attack on the host is first shown to work on a naive extraction."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import Callable

import pytest
from archives import entry, folder, link, pack, state
from sandlot.images.extract import extract
from sandlot.images.tarstream import ArchiveError
from sandlot.images.unpack import MAX_DEPTH, Bounds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BOUNDS = Bounds(100 << 20, 1000)


def unpack(data: bytes, destination: Path, bounds: Bounds = BOUNDS) -> list[str]:
    destination.mkdir(parents=True)
    archive = destination.parent / "archive"
    archive.write_bytes(data)
    fd = os.open(archive, os.O_RDONLY)
    try:
        return extract(fd, str(destination), bounds)
    finally:
        os.close(fd)


def naive(data: bytes, destination: Path) -> None:
    destination.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        if hasattr(archive, "extraction_filter"):
            archive.extraction_filter = staticmethod(lambda member, path: member)
        archive.extractall(destination)


def _chain(out: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [folder("a"), link("a/up", ".."), link("b", "a/up/.."), entry("b/out/pwned", b"x")]


def _long(out: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A path that a resolver with a bounded buffer stops following half-way."""
    entries, path, steps = [], "", "abcdefghijklmnop"
    for step in steps:
        entries.append(folder(f"{path}{'d' * 247}"))
        entries.append(link(f"{path}{step}", "d" * 247))
        path += f"{'d' * 247}/"
    far = "/".join(steps) + "/" + "l" * 254
    entries.append(link(far, "../" * len(steps)))
    entries.append(link("escape", f"{far}/../out"))
    entries.append(entry("escape/pwned", b"x"))
    return entries


ATTACKS: dict[str, Callable[[Path], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "dot-dot": lambda out: [entry("../out/pwned", b"x")],
    "dot-dot inside": lambda out: [folder("a"), entry("a/../../out/pwned", b"x")],
    "absolute": lambda out: [entry(f"{out}/pwned", b"x")],
    "dot-dot directory": lambda out: [folder("../out/pwned")],
    "dot-dot link": lambda out: [link("../out/pwned", "x")],
    "absolute link": lambda out: [link("x", str(out)), entry("x/pwned", b"x")],
    "relative link": lambda out: [link("x", "../out"), entry("x/pwned", b"x")],
    "link to link": lambda out: [link("x", "../out"), link("y", "x"), entry("y/pwned", b"x")],
    "link below link": lambda out: [link("x", ".."), link("y", "x/out"), entry("y/pwned", b"x")],
    "chain of links": _chain,
    "over-long path": _long,
    "directory through link": lambda out: [link("x", "../out"), folder("x/pwned")],
    "link through link": lambda out: [link("x", "../out"), link("x/pwned", "y")],
    "file over link": lambda out: [link("x", "../out/secret"), entry("x", b"pwned")],
    "directory over link": lambda out: [link("x", "../out"), folder("x", mode=0o777)],
    "directory below link": lambda out: [link("x", ".."), folder("x/out", mode=0o777)],
    "hard link outward": lambda out: [
        link("y", "../out/secret", tarfile.LNKTYPE),
        entry("y", b"pwned"),
    ],
    "hard link outward, absolute": lambda out: [
        link("y", f"{out}/secret", tarfile.LNKTYPE),
        entry("y", b"pwned"),
    ],
    "hard link through link": lambda out: [
        link("x", "../out"),
        link("y", "x/secret", tarfile.LNKTYPE),
        entry("y", b"pwned"),
    ],
    "leave and enter again": lambda out: [
        link("x", ".."),
        folder("x/in"),
        entry("x/out/pwned", b"x"),
    ],
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "secret").write_bytes(b"secret")
    return directory


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_nothing_lands_outside(tmp_path: Path, out: Path, attack, form: int) -> None:
    data = pack(*attack(out), form=form)
    before = state(out)
    outside = set(os.listdir(tmp_path)) | {"in", "archive"}
    try:
        unpack(data, tmp_path / "in")
    except ArchiveError:
        pass
    assert state(out) == before and set(os.listdir(tmp_path)) <= outside
    # Where tarfile refuses a name by itself, the control has nothing to show.
    naive(data, tmp_path / "naive")
    assert state(out) != before


@pytest.mark.parametrize(
    "name", ["dot-dot", "dot-dot inside", "absolute", "hard link outward", "dot-dot link"]
)
def test_a_name_that_leaves_is_refused_and_named(tmp_path: Path, out: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="member '.*leaves the image"):
        unpack(pack(*ATTACKS[name](out)), tmp_path / "in")


def test_links_inside_stay_links(tmp_path: Path) -> None:
    data = pack(
        folder("usr"), folder("usr/bin"), link("bin", "usr/bin"), link("abs", "/etc/passwd"),
        link("dangling", "../../../x"), entry("bin/tool", b"tool", mode=0o755),
    )  # fmt: skip
    unpack(data, tmp_path / "in")
    root = tmp_path / "in"
    assert os.readlink(root / "abs") == "/etc/passwd"
    assert os.readlink(root / "dangling") == "../../../x"
    assert (root / "usr/bin/tool").read_bytes() == b"tool"


# -- what an image must not hold ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_fifos_are_left_out(tmp_path: Path, kind: bytes) -> None:
    data = pack(
        entry("dev/x", type=kind, devmajor=1, devminor=3),
        link("dev/y", "dev/x", tarfile.LNKTYPE),
        entry("f", b"x"),
    )
    warnings = unpack(data, tmp_path / "in")
    assert [each.split(":")[0] for each in warnings] == ["left out 'dev/x'", "left out 'dev/y'"]
    assert os.listdir(tmp_path / "in" / "dev") == []
    naive(data, tmp_path / "naive")
    assert not stat.S_ISREG((tmp_path / "naive/dev/x").lstat().st_mode)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ids", [{"uid": 70000}, {"gid": 65536}, {"uid": 2**31}, {"gid": 2**32}])
def test_owners_beyond_the_range_are_refused(tmp_path: Path, ids: dict, form: int) -> None:
    with pytest.raises(ArchiveError, match="member 'odd' belongs to"):
        unpack(pack(entry("odd", b"", **ids), form=form), tmp_path / "in")


def test_a_negative_owner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="member 'odd' belongs to -1:0"):
        unpack(pack(entry("odd", b"", uid=-1)), tmp_path / "in")


def test_modes_owners_and_times_are_kept(tmp_path: Path) -> None:
    data = pack(
        folder("./", mode=0o711),
        entry("su", b"x", mode=0o6755, uid=65535, gid=7, mtime=1_500_000_000),
        entry("d", type=tarfile.DIRTYPE, mode=0o2500, uid=3, mtime=1_400_000_000),
        entry("d/f", b"x", mode=0),
        link("hard", "./su", tarfile.LNKTYPE),
    )
    root = tmp_path / "in"
    unpack(data, root)
    su, d = (root / "su").stat(), (root / "d").stat()
    assert (su.st_mode & 0o7777, su.st_uid, su.st_gid) == (0o6755, 65535, 7)
    assert (int(su.st_mtime), int(d.st_mtime)) == (1_500_000_000, 1_400_000_000)
    assert (d.st_mode & 0o7777, d.st_uid, root.stat().st_mode & 0o7777) == (0o2500, 3, 0o711)
    assert (root / "hard").stat().st_ino == su.st_ino


def test_extended_attributes_are_not_restored(tmp_path: Path) -> None:
    member, content = entry("cap", b"x")
    capability = "\x01\x00\x00\x02\xff\xff\xff\xff" + "\0" * 12
    member.pax_headers = {
        "SCHILY.xattr.security.capability": capability,
        "SCHILY.xattr.user.a": "b",
    }
    unpack(pack((member, content), form=tarfile.PAX_FORMAT), tmp_path / "in")
    assert os.listxattr(tmp_path / "in" / "cap") == []


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "tmp", "run"])
@pytest.mark.parametrize("target", ["/etc", "../../etc", "usr", None])
def test_mountpoints_must_be_directories(tmp_path: Path, name: str, target: str | None) -> None:
    """Or links, but in the place of a tree of the kernel."""
    odd = link(name, target) if target else entry(name, b"x")
    if target and name in ("etc", "tmp", "run"):
        unpack(pack(folder("usr"), odd), tmp_path / "in")
        assert os.readlink(tmp_path / "in" / name) == target
        return
    with pytest.raises(ArchiveError, match=f"member '{name}' is not a directory"):
        unpack(pack(folder("usr"), odd), tmp_path / "in")


def test_missing_mountpoints_are_made(tmp_path: Path) -> None:
    unpack(pack(entry("f", b"x")), tmp_path / "in")
    found = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "in").iterdir()}
    assert found.pop("f") == 0o644 and found.pop("tmp") == 0o1777
    assert found == dict.fromkeys(("dev", "proc", "sys", "etc", "run"), 0o755)


def test_directories_without_members_are_closed_to_others(tmp_path: Path) -> None:
    """Also those between the first and the last, as in images of builders that write files only."""
    unpack(pack(entry("usr/share/a/f")), tmp_path / "to")
    modes = [
        (tmp_path / "to" / name).stat().st_mode for name in ("usr", "usr/share", "usr/share/a")
    ]
    assert [f"{mode & 0o7777:o}" for mode in modes] == ["755"] * 3


def test_the_root_cannot_be_replaced(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="replaces the root"):
        unpack(pack(link("./", "/etc")), tmp_path / "in")


def test_a_hard_link_to_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="member 'y' links to 'x', which is not in the archive"):
        unpack(pack(link("y", "x", tarfile.LNKTYPE)), tmp_path / "in")


def test_a_later_member_replaces_an_earlier(tmp_path: Path) -> None:
    data = pack(
        entry("a", b"1"), entry("a", b"2"), folder("b"), link("b", "a"), link("c", "a"), folder("c")
    )
    unpack(data, tmp_path / "in")
    root = tmp_path / "in"
    assert (root / "a").read_bytes() == b"2" and os.readlink(root / "b") == "a"
    assert not (root / "c").is_symlink()


def test_a_hard_link_to_itself_keeps_the_file(tmp_path: Path) -> None:
    """As GNU tar does, whichever way the two names lead to the file."""
    hard = [link(name, "d/f", tarfile.LNKTYPE) for name in ("d/f", "./d/f", "l/f")]
    data = pack(folder("d"), entry("d/f", b"x"), link("l", "d"), *hard)
    for unpacked, directory in ((unpack, tmp_path / "in"), (_by_gnu_tar, tmp_path / "tar")):
        unpacked(data, directory)
        assert (directory / "d/f").read_bytes() == b"x"


def _by_gnu_tar(data: bytes, destination: Path) -> None:
    destination.mkdir()
    subprocess.run(["tar", "-x"], input=data, cwd=destination, check=True)


def test_names_in_any_encoding(tmp_path: Path) -> None:
    names = ["caf\udce9", "new\nline", "-rf", "ü", "a" * 255]
    unpack(pack(*(entry(name, b"x") for name in names)), tmp_path / "in")
    assert set(names) <= set(os.listdir(tmp_path / "in"))


def test_a_name_the_kernel_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="member 'a*.*: File name too long"):
        unpack(pack(entry("a" * 256, b"x")), tmp_path / "in")


# -- bounds and damage ----------------------------------------------------------------------------


def test_size_and_number_are_bounded(tmp_path: Path) -> None:
    data = pack(*(entry(str(number), b"x" * 100) for number in range(20)))
    with pytest.raises(ArchiveError, match="more than 1999 bytes.*raise max_size"):
        unpack(data, tmp_path / "a" / "in", Bounds(1999, 20))
    with pytest.raises(ArchiveError, match="more than 19 members.*raise max_files"):
        unpack(data, tmp_path / "b" / "in", Bounds(2000, 19))
    unpack(data, tmp_path / "c" / "in", Bounds(2000, 20))


def test_a_bomb_is_stopped_by_its_header(tmp_path: Path) -> None:
    member = tarfile.TarInfo("bomb")
    member.size = 1 << 50
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        unpack(gzip.compress(member.tobuf(tarfile.GNU_FORMAT)), tmp_path / "in")
    assert os.listdir(tmp_path / "in") == []


def test_an_archive_cannot_take_all_memory(tmp_path: Path) -> None:
    """An xz header that asks for a dictionary of 4 GiB."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(pack(entry("f", b"x")), filters=filters))
    # Block header: size, flags, filter id, size of properties, dictionary size; then its CRC.
    assert data[14:16] == b"\x21\x01"
    data[16] = 40
    data[20:24] = zlib.crc32(bytes(data[12:20])).to_bytes(4, "little")
    with pytest.raises(ArchiveError, match="bytes of memory"):
        unpack(bytes(data), tmp_path / "in")


COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
def test_compressions(tmp_path: Path, compress) -> None:
    unpack(compress(pack(entry("f", b"x" * 3_000_000))), tmp_path / "in")
    assert (tmp_path / "in" / "f").read_bytes() == b"x" * 3_000_000


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


def _in_two(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: compress(data[:300]) + compress(data[300:])


VARIANTS = {
    **{f"{name} in parts": _in_two(each) for name, each in COMPRESSIONS.items()},
    "zstd in frames": _in_two(_zstd),
    "zstd after a skippable frame": lambda data: b"\x50*M\x18\4\0\0\0wxyz" + _zstd(data),
    "zstd, whole": _zstd,
    "gzip and zeros": lambda data: gzip.compress(data) + bytes(1000),
    "garbage after the end": lambda data: data + b"garbage",
}


@pytest.mark.parametrize("compress", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_of_compressions(tmp_path: Path, compress) -> None:
    assert unpack(compress(pack(entry("f", b"x" * 100_000))), tmp_path / "in") == []
    assert (tmp_path / "in" / "f").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("cut", ["gzip", "zstd"])
def test_what_follows_compressed_data_is_checked(tmp_path: Path, cut: str) -> None:
    """The archive itself is whole: it is read to its end before the checksum comes."""
    whole = pack(entry("f", b"x" * 1000))
    data = gzip.compress(whole) if cut == "gzip" else _zstd(whole)
    with pytest.raises(ArchiveError, match="truncated or corrupt"):
        unpack(data[:-5] + b"wrong", tmp_path / "in")


FORMS = ["v7", "ustar", "oldgnu", "gnu", "posix", "gnu --sparse", "posix --sparse",
         "posix --pax-option=globexthdr.name=g,comment=c", "gnu --label=label",
         "gnu --listed-incremental=../snapshot"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_formats_of_gnu_tar(tmp_path: Path, form: str) -> None:
    """Also without the blocks of zeros at their end, and with a name that takes a prefix."""
    deep = "d" * 60 + "/" + "e" * (30 if form == "v7" else 90)
    source = tmp_path / "source"
    (source / deep).parent.mkdir(parents=True)
    (source / deep).write_bytes(b"x" + bytes(300_000) + b"y")
    command = ["tar", "-c", f"--format={form.split()[0]}", *form.split()[1:], "."]
    done = subprocess.run(command, cwd=source, capture_output=True, check=True)
    ended = done.stdout.rstrip(b"\0")
    cut = ended + bytes(-len(ended) % 512)
    assert unpack(done.stdout, tmp_path / "a" / "in") == []
    assert "may be truncated" in unpack(cut, tmp_path / "b" / "in")[0]
    for name in ("a", "b"):
        assert (tmp_path / name / "in" / deep).read_bytes() == (source / deep).read_bytes()


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
def test_truncated_archives(tmp_path: Path, compress) -> None:
    data = compress(pack(entry("f", os.urandom(100_000))))
    with pytest.raises(ArchiveError, match="truncated"):
        unpack(data[: len(data) // 2], tmp_path / "in")


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
def test_corrupt_archives(tmp_path: Path, compress) -> None:
    data = bytearray(compress(pack(*(entry(f"f{n}", os.urandom(2000)) for n in range(50)))))
    middle = len(data) // 2
    data[middle : middle + 2000] = os.urandom(2000)
    with pytest.raises(ArchiveError, match="corrupt|failed|checksum|type"):
        unpack(bytes(data), tmp_path / "in")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no members"),
        (b"<!DOCTYPE html><html>not found</html>", "HTML page"),
        (b"#!/bin/sh\n" + b"x" * 5000, "not a tar archive"),
        (b"PK\x03\x04" + os.urandom(2000), "not a tar archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
        (bytes(10240), "no members"),
        (gzip.compress(b""), "no members"),
        (gzip.compress(b"hello"), "truncated"),
    ],
    ids=["empty", "HTML", "script", "zip", "zstd", "zeroes", "gzip of nothing", "gzip"],
)
def test_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        unpack(data, tmp_path / "in")


def test_a_killed_extractor_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chroot", lambda path: os.kill(os.getpid(), 9))
    with pytest.raises(ArchiveError, match="killed by signal 9"):
        unpack(pack(entry("f", b"x")), tmp_path / "in")


def test_the_extractor_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its root, descriptors and capabilities, told through the one message it sends."""
    (tmp_path / "canary").write_bytes(b"")
    proc = os.open("/proc", os.O_RDONLY)

    def spy(fd: int, bounds: Bounds) -> dict[str, object]:
        found = [str(os.path.exists(path)) for path in (str(tmp_path), "/etc", "/../../etc")]
        held = []
        for number in range(256):
            try:
                held.append(os.fstat(number).st_mode)
            except OSError:
                continue
        return {"error": "", "hint": "", "warnings": [*found, str(len(held))]}

    monkeypatch.setattr("sandlot.images.extract._outcome", spy)
    try:
        assert unpack(b"x", tmp_path / "in") == ["False", "False", "False", "2"]
    finally:
        os.close(proc)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_bounded(tmp_path: Path, out: Path, depth: int) -> None:
    """Deeper trees could be made, and then not be removed by code that recurses."""
    member = folder("/".join(["d"] * depth))
    if depth > MAX_DEPTH:
        with pytest.raises(ArchiveError, match="directories deep"):
            unpack(pack(member), tmp_path / "in")
    else:
        unpack(pack(member), tmp_path / "in")
        shutil.rmtree(tmp_path / "in")
