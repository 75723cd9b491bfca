# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Archives that would fill disks, memory or time, or hand rights to users of the host."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import entry, folder, link, pack
from image_server import serving
from sandlot import images
from sandlot.errors import SandlotError
from sandlot.images.tarstream import ArchiveError
from sandlot.images.unpack import Bounds
from sandlot.plan import apply_all
from sandlot.site import Site
from test_images_extract import naive, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
FORK = multiprocessing.get_context("fork")


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd,
}
compressed = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())


def wish(path: Path, data: bytes, **options: object) -> dict:
    path.write_bytes(data)
    checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"name": "t", "source": "tarball", "path": str(path), "checksum": checksum, **options}


def converge(paths: Site, raw: dict) -> None:
    apply_all(images.operations(paths, images.normalise_all([raw])))


@pytest.fixture
def paths(tmp_path: Path) -> Site:
    return Site(str(tmp_path / "root"))


# -- zstd -----------------------------------------------------------------------------------------


def test_zstd(tmp_path: Path) -> None:
    data = pack(entry("f", os.urandom(3_000_000)), entry("g", b"x" * 3_000_000))
    assert unpack(zstd(data), tmp_path / "in") == []
    naive(data, tmp_path / "naive")
    for name in ("f", "g"):
        assert (tmp_path / "in" / name).read_bytes() == (tmp_path / "naive" / name).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "header only"])
def test_damaged_zstd(tmp_path: Path, damage: str) -> None:
    data = bytearray(zstd(pack(entry("f", os.urandom(300_000)))))
    if damage == "corrupt":
        data[1000:3000] = bytes(2000)
    end = {"truncated": len(data) // 2, "corrupt": len(data), "header only": 4}[damage]
    with pytest.raises(ArchiveError, match="truncated or corrupt|truncated|is empty"):
        unpack(bytes(data[:end]), tmp_path / "in")


def test_a_host_without_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = zstd(pack(entry("f", b"x")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandlotError, match="zstd, which this host lacks; install the Debian pack"):
        unpack(data, tmp_path / "in")


SPY = """#!/bin/sh
exec >&2
while read -r key value; do
    case $key in Uid:|CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) echo $key $value; esac
done < /proc/self/status
for each in /proc/self/fd/*; do echo fd ${each##*/}; done
while read -r each; do echo net ${each%%:*}; done < /proc/net/dev
read -r x < SECRET && echo it was read
exit 1
"""


def test_the_decompressor_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for zstd tells what it can do, through the message of its failure."""
    data = zstd(pack(entry("f", b"x")))
    secret = tmp_path / "secret"
    secret.write_text("x\n")
    secret.chmod(0o600)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        spy = Path(directory, "zstd")
        spy.write_text(SPY.replace("SECRET", str(secret)))
        spy.chmod(0o755)
        free = subprocess.run([str(spy)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        monkeypatch.setenv("PATH", directory)
        with pytest.raises(ArchiveError) as caught:
            unpack(data, tmp_path / "in")
    text = str(caught.value)
    assert "it was read" in free.stderr and "Seccomp: 0" in free.stderr and "net eth" in free.stderr
    assert "Uid: 65534 65534 65534 65534" in text.replace("\t", " ")
    assert "CapEff: 0000000000000000" in text and "NoNewPrivs: 1" in text and "Seccomp: 2" in text
    assert "it was read" not in text and "net lo" in text and "net eth" not in text
    assert {word for word in text.split("; ") if word.startswith("fd ")} <= {
        *("fd 0", "fd 1", "fd 2", "fd 3"),
        "fd 10",  # the shell's own
    }


def test_the_decompressor_dies_with_the_run(paths: Site, tmp_path: Path) -> None:
    raw = wish(tmp_path / "a", zstd(pack(entry("f", os.urandom(1 << 20) * 400))))
    job = FORK.Process(target=converge, args=(paths, raw))
    job.start()
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    while len(found := children.read_text().split()) < 2:
        assert job.is_alive()
    watched = [os.pidfd_open(int(pid)) for pid in found]
    job.kill()
    job.join()
    for pidfd in watched:
        assert select.select([pidfd], [], [], 30)[0]
        os.close(pidfd)


# -- bombs ----------------------------------------------------------------------------------------


@compressed
def test_a_file_that_expands(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = compress(pack(entry("f", bytes(200 << 20))))
    with pytest.raises(ArchiveError, match="unpacks to more than 1048576 bytes"):
        unpack(data, tmp_path / "in", Bounds(1 << 20, 100))
    assert os.listdir(tmp_path / "in") == []


def _attributes(number: int) -> bytes:
    members = []
    for index in range(number):
        member, content = entry(f"f{index}")
        member.pax_headers = {"SCHILY.xattr.user.a": "x" * 1_000_000}
        members.append((member, content))
    return pack(*members, form=tarfile.PAX_FORMAT)


@compressed
def test_headers_that_expand(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Hundreds of megabytes of attributes, in files of no bytes."""
    data = compress(_attributes(100))
    bounds = Bounds(1 << 20, 1000)
    with pytest.raises(ArchiveError, match=f"more than {bounds.stream} bytes come out of it"):
        unpack(data, tmp_path / "in", bounds)
    unpack(compress(_attributes(5)), tmp_path / "few" / "in", bounds)
    assert os.listxattr(tmp_path / "few" / "in" / "f0") == []


def test_links_and_directories_count(tmp_path: Path) -> None:
    data = pack(
        *(folder(f"d{number}") for number in range(5)), *(link(f"l{n}", "x") for n in range(5))
    )
    with pytest.raises(ArchiveError, match="more than 9 members"):
        unpack(data, tmp_path / "in", Bounds(1 << 20, 9))


def test_a_stream_without_end(tmp_path: Path) -> None:
    """A pipe goes on for ever: what bounds the work is not the archive's end."""
    reader, writer = os.pipe()
    feeder = FORK.Process(target=_feed, args=(writer, reader))
    feeder.start()
    os.close(writer)
    (tmp_path / "in").mkdir()
    try:
        with pytest.raises(ArchiveError, match="more than 500 members"):
            from sandlot.images import decompress
            from sandlot.images import extract as module

            with pytest.MonkeyPatch.context() as patch:
                # It looks at the beginning of a file, which a pipe does not have.
                patch.setattr(decompress, "readable", lambda fd: contextlib.nullcontext(fd))
                module.extract(reader, str(tmp_path / "in"), Bounds(1 << 20, 500))
    finally:
        os.close(reader)
        feeder.join(30)
        assert feeder.exitcode is not None


def _feed(writer: int, reader: int) -> None:
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        number = 0
        while True:
            member, _ = entry(f"f{number}")
            os.write(writer, member.tobuf(tarfile.GNU_FORMAT))
            number += 1


def test_time_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandlot.images import extract as module

    def forever(fd: int, bounds: Bounds) -> dict:
        while True:
            pass

    monkeypatch.setattr(module, "_SECONDS", 1)
    monkeypatch.setattr(module, "_outcome", forever)
    with pytest.raises(ArchiveError, match="taken more than 1 seconds of the processor"):
        unpack(pack(entry("f")), tmp_path / "in")


def test_a_sparse_file_counts_with_its_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "f", "wb") as handle:
        handle.truncate(1 << 40)
    command = ["tar", "--sparse", "-C", str(source), "-cf", "-", "f"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 100_000
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        unpack(data, tmp_path / "in")
    subprocess.run(["tar", "-xC", str(tmp_path)], input=data, check=True)
    assert (tmp_path / "f").stat().st_size == 1 << 40


@pytest.mark.parametrize("form", ["gnu", "0.1", "1.0"])
def test_sparse_files(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "f", "wb") as handle:
        for number in range(100):  # more parts than one header holds
            handle.seek(number * 50_000)
            handle.write(os.urandom(5000))
        handle.truncate(6_000_000)
    with open(source / "hole", "wb") as handle:
        handle.truncate(1_000_000)
    (source / "plain").write_bytes(b"plain")
    options = ["--format=gnu"] if form == "gnu" else ["--format=posix", f"--sparse-version={form}"]
    command = ["tar", "--sparse", *options, "-C", str(source), "-cf", "-", "f", "hole", "plain"]
    unpack(subprocess.run(command, capture_output=True, check=True).stdout, tmp_path / "in")
    for name in ("f", "hole", "plain"):
        found = tmp_path / "in" / name
        assert found.read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "in" / "f").stat().st_blocks * 512 < 2_000_000


def test_an_unknown_sparse_format_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as handle:
        handle.truncate(100_000)
    command = ["tar", "--sparse", "--format=posix", "--sparse-version=0.0", "-C", str(tmp_path)]
    data = subprocess.run([*command, "-cf", "-", "f"], capture_output=True, check=True).stdout
    with pytest.raises(ArchiveError, match="unknown format; make the archive without --sparse"):
        unpack(data, tmp_path / "in")


# -- disks ----------------------------------------------------------------------------------------


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """16 MiB and 256 inodes, really."""
    where = tmp_path / "small"
    where.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=256", "none", str(where)]
    else:
        disk = tmp_path / "disk"
        with open(disk, "wb") as handle:
            handle.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-N", "256", "-m", "0", str(disk)], check=True)
        command = ["mount", "-o", "loop", str(disk), str(where)]
    subprocess.run(command, check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


FILLING = {
    "bytes": [entry("f", b"x" * (24 << 20))],
    "inodes": [entry(f"f{number}", b"x") for number in range(400)],
    "directories": [folder(f"f{number}") for number in range(400)],
}


@pytest.mark.parametrize("members", FILLING.values(), ids=FILLING.keys())
def test_a_full_disk(small: Path, tmp_path: Path, members: list) -> None:
    paths = Site(str(small))
    converge(paths, wish(tmp_path / "old", pack(entry("f", b"old"))))
    before = images.lookup(paths, "t"), sorted(small.rglob("*"))
    with pytest.raises(SandlotError, match="No space left on device; free space and inodes"):
        converge(paths, wish(tmp_path / "new", gzip.compress(pack(*members))))
    assert (images.lookup(paths, "t"), sorted(small.rglob("*"))) == before
    assert Path(before[0].root, "f").read_bytes() == b"old"
    # The control: so much does not fit.
    with pytest.raises(OSError, match="No space left"):
        naive(pack(*members), small / "naive")
    shutil.rmtree(small / "naive")
    converge(paths, wish(tmp_path / "next", pack(entry("f", b"next"))))


def test_a_disk_that_the_archive_itself_fills(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    paths = Site(str(small))
    raw = wish(tmp_path / "a", pack(entry("f", os.urandom(24 << 20))))
    with pytest.raises(SandlotError, match="image 't' can't be made: .*No space left"):
        converge(paths, raw)
    assert os.listdir(paths.images) == ["trees"]
    with serving() as server:
        server.files["/a"] = Path(raw.pop("path")).read_bytes()
        with pytest.raises(SandlotError, match="image 't' can't be made: .*No space left"):
            converge(paths, {**raw, "url": f"{server.url}/a"})
    assert os.listdir(paths.images) == ["trees"]


# -- users of the host ----------------------------------------------------------------------------


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory whose parents every user may enter."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="sandlot-test-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_setuid_programs_are_out_of_reach(reachable: Path, tmp_path: Path) -> None:
    paths = Site(str(reachable))
    program = Path("/usr/bin/id").read_bytes()
    converge(paths, wish(tmp_path / "a", pack(entry("id", program, mode=0o4755))))
    root = Path(images.lookup(paths, "t").root)
    assert (root / "id").stat().st_mode & 0o7777 == 0o4755

    def effective_user() -> str:
        ids = {"user": 65534, "group": 65534, "extra_groups": []}
        return subprocess.check_output([str(root / "id"), "-u"], cwd="/", text=True, **ids)

    with pytest.raises(PermissionError):
        effective_user()
    for each in (root, *root.relative_to(reachable).parents):
        os.chmod(reachable / each, 0o755)
    assert effective_user() == "0\n"


# -- names that the builder uses ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "run", "tmp", "etc/resolv.conf"])
def test_special_files_in_the_place_of_ours(tmp_path: Path, name: str, kind: bytes) -> None:
    data = pack(entry(name, type=kind, devmajor=7), entry("f", b"x"))
    unpack(data, tmp_path / "in")
    found = tmp_path / "in" / name
    assert not found.exists() if "/" in name else found.is_dir()
    naive(data, tmp_path / "naive")
    assert not (tmp_path / "naive" / name).is_dir() and os.path.lexists(tmp_path / "naive" / name)


def test_what_follows_a_directory_that_became_a_link(tmp_path: Path) -> None:
    """A tree is made, its top replaced by a link outward, and written below again."""
    out = tmp_path / "out"
    out.mkdir()
    data = pack(folder("d"), link("d", str(out)), entry("d/pwned", b"x"))
    with pytest.raises(ArchiveError):
        unpack(data, tmp_path / "in")
    assert os.listdir(out) == []
    data = pack(link("d", str(out)), entry("d/pwned", b"x"))
    naive(data, tmp_path / "naive")
    assert os.listdir(out) == ["pwned"]


def test_the_interrupted_extractor_leaves_what_the_next_run_cleans(
    paths: Site, tmp_path: Path
) -> None:
    raw = wish(tmp_path / "a", pack(*(entry(f"f{n}", bytes(1 << 20)) for n in range(200))))
    job = FORK.Process(target=converge, args=(paths, raw))
    job.start()
    root = Path(paths.images, f".tmp-{raw['checksum'][7:]}", "tree", "root")
    while not (root / "f5").exists():
        assert job.is_alive()
    assert job.pid
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    assert root.exists()
    converge(paths, raw)
    assert os.listdir(paths.images) != [] and not root.exists()
    assert len(os.listdir(images.lookup(paths, "t").root)) == 206
