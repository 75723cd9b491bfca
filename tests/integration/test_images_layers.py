# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Layers and whiteouts, right and hostile. Each attack is shown to work on naive unpacking."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from archives import entry, folder, link, pack, state
from oci_images import digest
from sandlot.images.extract import extract
from sandlot.images.oci import layers
from sandlot.images.tarstream import ArchiveError
from sandlot.images.unpack import MAX_DEPTH, Bounds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BOUNDS = Bounds(100 << 20, 1000)
MOUNTPOINTS = {"dev", "proc", "sys", "etc", "run", "tmp"}


def unpack(
    content: Sequence[bytes],
    destination: Path,
    bounds: Bounds = BOUNDS,
    digests: Sequence[str] | None = None,
    compress: Callable[[bytes], bytes] = bytes,
) -> list[str]:
    destination.mkdir(parents=True)
    fds = []
    try:
        for number, data in enumerate(content):
            path = destination.parent / f"layer{number}"
            path.write_bytes(compress(data))
            fds.append(os.open(path, os.O_RDONLY))
        names = digests or [digest(data) for data in content]
        return layers.apply(fds, names, str(destination), bounds, lambda done: None)
    finally:
        for fd in fds:
            os.close(fd)


def files(root: Path) -> dict[str, str]:
    """What there is, apart from mount points that were missing."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
        elif name not in MOUNTPOINTS:
            found[name] = "/"
    return found


def naive(content: Sequence[bytes], destination: Path) -> None:
    """What a program of twenty lines would do, by path and as root."""
    destination.mkdir(parents=True)
    for data in content:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            if hasattr(archive, "extraction_filter"):
                archive.extraction_filter = staticmethod(lambda member, path: member)
            for member in archive:
                directory, name = os.path.split(os.path.join(destination, member.name))
                if name == ".wh..wh..opq":
                    for each in os.listdir(directory):
                        _naive_remove(os.path.join(directory, each))
                elif name.startswith(".wh."):
                    _naive_remove(os.path.join(directory, name[4:]))
                else:
                    archive.extract(member, destination)


def _naive_remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


# -- the specification ----------------------------------------------------------------------------

LOWER = pack(
    folder("a"), entry("a/1", b"one"), entry("a/2", b"two"), folder("a/d"), entry("a/d/3", b"3"),
    link("l", "a"), entry("f", b"f"),
)  # fmt: skip
ALL = {"a": "/", "a/1": "one", "a/2": "two", "a/d": "/", "a/d/3": "3", "l": "-> a", "f": "f"}


def _without(*names: str) -> dict[str, str]:
    return {name: text for name, text in ALL.items() if name not in names}


CASES = {
    "nothing": ([], ALL),
    "a file": ([entry("a/.wh.1")], _without("a/1")),
    "a tree": ([entry(".wh.a")], {"f": "f", "l": "-> a"}),
    "a link, not what it leads to": ([entry(".wh.l")], _without("l")),
    "what is not there": ([entry("a/.wh.9"), entry("x/y/.wh.z"), entry("f/.wh.z")], ALL),
    "replaced, whiteout first": (
        [entry(".wh.a"), folder("a"), entry("a/9", b"9")],
        {"a": "/", "a/9": "9", "f": "f", "l": "-> a"},
    ),
    "replaced, whiteout last": (
        [folder("a"), entry("a/9", b"9"), entry(".wh.a")],
        {"a": "/", "a/9": "9", "f": "f", "l": "-> a"},
    ),
    "a file of the same layer stays": (
        [entry("a/1", b"new"), entry("a/.wh.1")],
        {**ALL, "a/1": "new"},
    ),
    "opaque first": (
        [folder("a"), entry("a/.wh..wh..opq"), entry("a/9", b"9")],
        {"a": "/", "a/9": "9", "f": "f", "l": "-> a"},
    ),
    "opaque last": (
        [folder("a"), entry("a/9", b"9"), entry("a/d/9", b"9"), entry("a/.wh..wh..opq")],
        {"a": "/", "a/9": "9", "a/d": "/", "a/d/9": "9", "f": "f", "l": "-> a"},
    ),
    "opaque root": ([entry("./.wh..wh..opq"), entry("n", b"n")], {"n": "n"}),
    "opaque link": ([entry("l/.wh..wh..opq")], ALL),
    "whiteout through a link": ([entry("l/.wh.1")], _without("a/1")),
    "a file for a tree": ([entry("a", b"new")], {"a": "new", "f": "f", "l": "-> a"}),
    "a link for a tree": ([link("a", "f")], {"a": "-> f", "f": "f", "l": "-> a"}),
    "a tree for a file": ([folder("f"), entry("f/x", b"x")], {**ALL, "f": "/", "f/x": "x"}),
    "a tree for a link": ([folder("l"), entry("l/x", b"x")], {**ALL, "l": "/", "l/x": "x"}),
    "a directory again": ([folder("a", 0o700)], ALL),
    "through a link": ([entry("l/9", b"9")], {**ALL, "a/9": "9"}),
    "a hard link to a lower file": ([link("h", "a/1", tarfile.LNKTYPE)], {**ALL, "h": "one"}),
    "absolute names": (
        [entry("/a/9", b"9"), link("/h", "/a/1", tarfile.LNKTYPE), entry("/a/.wh.2")],
        {**_without("a/2"), "a/9": "9", "h": "one"},
    ),
    "a hard link to itself": ([link("a/1", "a/1", tarfile.LNKTYPE)], ALL),
    "a hard link to itself through a link": ([link("l/1", "a/1", tarfile.LNKTYPE)], ALL),
    "a hard link to itself stays": (
        [link("a/1", "./a/1", tarfile.LNKTYPE), entry("a/.wh..wh..opq"), entry("a/.wh.1")],
        _without("a/2", "a/d", "a/d/3"),
    ),
    "a hard link to a tree it replaces": ([link("a/d", "f", tarfile.LNKTYPE)], {
        **_without("a/d/3"), "a/d": "f",
    }),
    "a symbolic link to itself": ([link("f", "f")], {**ALL, "f": "-> f"}),
    "what AUFS keeps": (
        [entry(".wh..wh.aufs"), folder(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x")],
        ALL,
    ),
}  # fmt: skip


@pytest.mark.parametrize("upper, expected", CASES.values(), ids=CASES.keys())
def test_a_layer_over_another(
    tmp_path: Path, upper: list[tuple[tarfile.TarInfo, bytes]], expected: dict[str, str]
) -> None:
    assert unpack([LOWER, pack(*upper)], tmp_path / "in") == []
    assert files(tmp_path / "in") == expected


def test_a_later_layer_shows_what_was_hidden_again(tmp_path: Path) -> None:
    again = [LOWER, pack(entry(".wh.a")), pack(entry("a/1", b"back"))]
    unpack(again, tmp_path / "in")
    assert files(tmp_path / "in") == {"a": "/", "a/1": "back", "f": "f", "l": "-> a"}
    # What made the directory anew left no mode for it.
    assert (tmp_path / "in/a").stat().st_mode & 0o7777 == 0o755


def test_directories_keep_what_their_last_layer_says(tmp_path: Path) -> None:
    upper = pack(entry("a", type=tarfile.DIRTYPE, mode=0o2710, uid=3, gid=4, mtime=1_400_000_000))
    unpack([LOWER, upper, pack(entry("z", b"z"))], tmp_path / "in")
    status = (tmp_path / "in/a").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2710, 3, 4)
    assert int(status.st_mtime) == 1_400_000_000


def test_a_link_to_a_directory_that_is_missing_yet(tmp_path: Path) -> None:
    """As /var/run in an image without /run."""
    base = pack(folder("var"), link("var/sub", "../srv/sub"))
    unpack([base, pack(entry("var/sub/x", b"x"))], tmp_path / "in")
    assert (tmp_path / "in/srv/sub/x").read_text() == "x"
    assert (tmp_path / "in/srv").stat().st_mode & 0o777 == 0o755


def test_devices_hide_what_was_there_and_are_told(tmp_path: Path) -> None:
    upper = pack(entry("a/1", type=tarfile.CHRTYPE), link("h", "a/1", tarfile.LNKTYPE))
    assert unpack([LOWER, upper], tmp_path / "in") == [
        "left out 'a/1': a device or FIFO",
        "left out 'h': a device or FIFO",
    ]
    assert files(tmp_path / "in") == _without("a/1")


def test_a_device_that_is_replaced_is_not_told(tmp_path: Path) -> None:
    device, upper = pack(entry("x", type=tarfile.FIFOTYPE)), pack(entry("x", b"x"))
    assert unpack([device, upper], tmp_path / "in") == []


def test_empty_layers_are_layers(tmp_path: Path) -> None:
    unpack([pack(), LOWER, b"", pack()], tmp_path / "in")
    assert files(tmp_path / "in") == ALL


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compressed_layers(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    unpack([LOWER, pack(entry(".wh.f"))], tmp_path / "in", compress=compress)
    assert files(tmp_path / "in") == _without("f")


def test_what_follows_the_end_of_a_layer_is_part_of_its_digest(tmp_path: Path) -> None:
    unpack([LOWER + b"\0" * 3_000_000], tmp_path / "a" / "in", compress=gzip.compress)
    with pytest.raises(ArchiveError, match="layer 1: more than 9999999 bytes follow its end"):
        data = LOWER + b"\0" * 20_000_000
        unpack([data], tmp_path / "b" / "in", Bounds(9_999_999, 100), compress=gzip.compress)


# -- attacks --------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    (directory / "d").mkdir(parents=True)
    (directory / "secret").write_bytes(b"secret")
    return directory


ATTACKS: dict[str, Callable[[Path], list[bytes]]] = {
    "whiteout with dot-dot": lambda out: [LOWER, pack(entry("../out/.wh.secret"))],
    "whiteout with dot-dot inside": lambda out: [LOWER, pack(entry("a/../../out/.wh.secret"))],
    "absolute whiteout": lambda out: [LOWER, pack(entry(f"{out}/.wh.secret"))],
    "opaque with dot-dot": lambda out: [LOWER, pack(entry("../out/.wh..wh..opq"))],
    "opaque and absolute": lambda out: [LOWER, pack(entry(f"{out}/.wh..wh..opq"))],
    "whiteout of the parent": lambda out: [LOWER, pack(entry(".wh..."))],
    "whiteout through a link": lambda out: [
        pack(link("x", str(out))),
        pack(entry("x/.wh.secret")),
    ],
    "whiteout through a relative link": lambda out: [
        pack(link("x", "../out")),
        pack(entry("x/.wh.secret")),
    ],
    "opaque through a link": lambda out: [
        pack(link("x", str(out))),
        pack(entry("x/.wh..wh..opq")),
    ],
    "opaque below a link": lambda out: [
        pack(link("x", "..")),
        pack(entry("x/out/.wh..wh..opq")),
    ],
    "write through a lower link": lambda out: [
        pack(link("x", str(out))),
        pack(entry("x/pwned", b"x")),
    ],
    "a directory made a link": lambda out: [
        pack(folder("x"), entry("x/f", b"x")),
        pack(entry(".wh.x"), link("x", "../out")),
        pack(entry("x/secret", b"pwned")),
    ],
    "mode through a lower link": lambda out: [
        pack(link("x", str(out))),
        pack(entry("x/d", type=tarfile.DIRTYPE, mode=0o777)),
    ],
    "hard link over layers": lambda out: [
        pack(link("x", "../out")),
        pack(link("y", "x/secret", tarfile.LNKTYPE)),
        pack(entry("y", b"pwned")),
    ],
}
REFUSED = {
    "whiteout with dot-dot": "leaves the image",
    "whiteout with dot-dot inside": "leaves the image",
    "opaque with dot-dot": "leaves the image",
    "whiteout of the parent": "whiteout of nothing",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_outside_is_touched(tmp_path: Path, out: Path, name: str) -> None:
    content = ATTACKS[name](out)
    before = state(out)
    outside = set(os.listdir(tmp_path)) | {"in", *(f"layer{n}" for n in range(len(content)))}
    if name in REFUSED:
        with pytest.raises(ArchiveError, match=REFUSED[name]):
            unpack(content, tmp_path / "in")
    else:
        with contextlib.suppress(ArchiveError):
            unpack(content, tmp_path / "in")
    assert state(out) == before and set(os.listdir(tmp_path)) <= outside
    with contextlib.suppress(OSError):
        naive(content, tmp_path / "naive")
    assert not out.exists() or state(out) != before


@pytest.mark.parametrize("name", [".wh.", ".wh..", "a/.wh.", "a/.wh..", "a/d/.wh...", "./.wh.."])
def test_whiteouts_of_nothing_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="layer 2: member .* is a whiteout of nothing"):
        unpack([LOWER, pack(entry(name))], tmp_path / "in")


@pytest.mark.parametrize("target", ["n", "f/n", "n/n"])
def test_hard_links_to_nothing_are_refused(tmp_path: Path, target: str) -> None:
    for name in ("n", "a/1"):
        upper = pack(link(name, target, tarfile.LNKTYPE))
        with pytest.raises(ArchiveError, match=f"layer 2: member {name!r} links to {target!r}"):
            unpack([LOWER, upper], tmp_path / name / "in")


def test_members_below_a_whiteout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="layer 1: member .* lies below a whiteout"):
        unpack([pack(entry(".wh.a/b", b"x"))], tmp_path / "in")


@pytest.mark.parametrize("name", sorted(MOUNTPOINTS))
def test_mountpoints_are_directories_in_the_end(tmp_path: Path, name: str) -> None:
    """Or links, but in the place of a tree of the kernel."""
    refused = link(name, "/x") if name in ("dev", "proc", "sys") else entry(name)
    with pytest.raises(ArchiveError, match=f"'{name}' is not a directory"):
        unpack([pack(folder(name)), pack(refused)], tmp_path / "in")
    unpack([pack(folder(name)), pack(link(name, "/x")), pack(folder(name))], tmp_path / "b" / "in")
    unpack([pack(folder(name)), pack(entry(f".wh.{name}"))], tmp_path / "c" / "in")
    assert (tmp_path / "c/in" / name).is_dir()


def test_the_root_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="replaces the root"):
        unpack([LOWER, pack(link("./", "/etc"))], tmp_path / "in")


def test_bounds_are_those_of_all_layers(tmp_path: Path) -> None:
    content = [pack(entry(f"f{number}", b"x" * 100)) for number in range(4)]
    with pytest.raises(ArchiveError, match="layer 4: .*more than 399 bytes.*raise max_size"):
        unpack(content, tmp_path / "a" / "in", Bounds(399, 4))
    with pytest.raises(ArchiveError, match="layer 4: .*more than 3 members.*raise max_files"):
        unpack(content, tmp_path / "b" / "in", Bounds(400, 3))
    unpack(content, tmp_path / "c" / "in", Bounds(400, 4))


def test_whiteouts_count_as_members(tmp_path: Path) -> None:
    many = pack(*(entry(f".wh.{number}") for number in range(50)))
    with pytest.raises(ArchiveError, match="more than 20 members"):
        unpack([LOWER, many], tmp_path / "in", Bounds(1000, 20))


def test_owners_beyond_the_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="layer 2: member 'odd' belongs to 70000:0"):
        unpack([LOWER, pack(entry("odd", uid=70000))], tmp_path / "in")


def test_other_content_than_told_is_refused(tmp_path: Path) -> None:
    digests = [digest(LOWER), digest(b"another")]
    with pytest.raises(ArchiveError, match="layer 2: its content has the digest sha256:"):
        unpack([LOWER, LOWER], tmp_path / "in", digests=digests)


def test_an_image_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no files"):
        unpack([pack(), pack()], tmp_path / "in")


@pytest.mark.parametrize(
    "data",
    [b"x" * 2000, LOWER[:700], gzip.compress(LOWER)[:60]],
    ids=["no archive", "truncated", "truncated gzip"],
)
def test_damaged_layers_are_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArchiveError, match="layer 2:? "):
        unpack([LOWER, data], tmp_path / "in")


def _deep(*, implied: bool) -> list[list[tuple[tarfile.TarInfo, bytes]]]:
    """Links to links: no name is long, and what they lead to lies a thousand levels deep."""
    found, above, step = [], "", "/".join(["d"] * (MAX_DEPTH - 10))
    for number in range(6):
        inner = entry(f"{above}{step}/f") if implied else folder(f"{above}{step}")
        found.append([inner, link(f"l{number}", f"{above}{step}")])
        above = f"l{number}/"
    return found


@pytest.mark.parametrize("implied", [True, False])
def test_links_lead_no_deeper_than_names(tmp_path: Path, implied: bool) -> None:
    content = [pack(*entries) for entries in _deep(implied=implied)]
    with pytest.raises(ArchiveError, match=f"lies more than {MAX_DEPTH} directories deep"):
        unpack(content, tmp_path / "in")
    naive(content, tmp_path / "naive")
    try:
        with pytest.raises(RecursionError):
            shutil.rmtree(tmp_path / "naive")
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "naive"], check=True)


def test_archives_lead_no_deeper_than_names(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(*(each for entries in _deep(implied=False) for each in entries)))
    (tmp_path / "in").mkdir()
    with open(archive, "rb") as handle:
        with pytest.raises(ArchiveError, match=f"lies more than {MAX_DEPTH} directories deep"):
            extract(handle.fileno(), str(tmp_path / "in"), BOUNDS)
