# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images without a kernel: options, records, the tar reader."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from sandlot import images, store
from sandlot.errors import SpecError, StateError
from sandlot.images import busybox, programs
from sandlot.images.tarstream import MAX_EXTENSION, ArchiveError, TarStream
from sandlot.kernel import elf
from sandlot.site import Site
from sandlot.spec.option import Option
from sandlot.spec.text import text

SHA256 = "sha256:" + "0a" * 32
TARBALL = {"name": "debian", "source": "tarball", "path": "/srv/x.tar", "checksum": SHA256}


# -- options --------------------------------------------------------------------------------------


def test_a_tarball_is_normalised() -> None:
    spec = images.normalise({**TARBALL, "checksum": SHA256.upper(), "max_size": "1g", "url": None})
    assert images.SOURCES["tarball"].parameters(spec) == {
        "path": "/srv/x.tar",
        "checksum": SHA256,
        "max_size": 1 << 30,
        "max_files": 500_000,
    }


@pytest.mark.parametrize("option", ["url", "checksum"])
def test_the_login_in_an_address_is_refused_and_not_shown(option: str) -> None:
    given = {**TARBALL, "path": None, "url": "http://example.org/x.tar"}
    address = {option: "https://anna:hunter2@example.org/x.tar"}
    with pytest.raises(SpecError, match="without user, password") as failure:
        images.normalise({**given, **address})
    assert "//...@example.org" in str(failure.value) and "hunter2" not in str(failure.value)


def test_a_file_that_is_gone_stands_for_the_image_made_of_it_only(tmp_path: Path) -> None:
    source = images.SOURCES["oci"]
    known = images.Image("x", "00", source="oci", base="00")
    old, new = (
        images.normalise(
            {"name": "x", "source": "oci", "reference": f"docker-archive:{tmp_path}/{name}.tar"}
        )
        for name in ("old", "new")
    )
    known = replace(known, parameters=source.parameters(old))
    assert source.digest(old, known) is None
    with pytest.raises(SpecError, match=r"reference: 'docker-archive:.*new\.tar' is not there"):
        source.digest(new, known)


def test_a_busybox_image_takes_no_option() -> None:
    spec = images.normalise({"name": "b", "source": "busybox"})
    assert images.SOURCES["busybox"].parameters(spec) == {}


def test_options_are_as_a_record_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each run would see a change. A secret of Ansible's is in no record."""
    rows = (
        Option("words", "list", lambda _, value: tuple(value), ["Words."], elements="str"),
        Option("pairs", "dict", lambda _, value: {"a": tuple(value["a"])}, ["Pairs."]),
        Option("token", "str", text, ["A secret."], no_log=True),
    )
    source = replace(images.SOURCES["busybox"], options=rows)
    monkeypatch.setitem(images.SOURCES, "new", source)
    given = {"words": ["a", "b"], "pairs": {"a": [1]}}
    spec = images.normalise(
        {"name": "x", "source": "new", "token": "t", "setup": ["true"], **given}
    )
    stored = source.parameters(spec)
    assert stored == {**given, "setup": [{"command": ["sh", "-c", "true"]}]}
    assert stored == json.loads(json.dumps(stored))
    assert all(known == spec.get(option) for option, known in given.items())
    assert spec.get("token") == "t"


def test_sources_agree_on_options_of_one_name() -> None:
    """They are one row for Ansible."""
    rows = [row for source in images.SOURCES.values() for row in source.options]
    typed = {row.name: (row.type, row.elements) for row in rows}
    assert [row.name for row in rows if (row.type, row.elements) != typed[row.name]] == []
    for kind, source in images.SOURCES.items():
        assert source.secret <= {row.name for row in source.options}, kind


def test_the_documentation_lists_the_sources() -> None:
    page = (Path(__file__).parents[2] / "docs/images.md").read_text()
    table = page.partition("| source |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(images.SOURCES)


BAD = {
    "no name": ({"source": "busybox"}, "image.name"),
    "no source": ({"name": "x"}, "image.source"),
    "unknown source": ({"name": "x", "source": "docker"}, "image.source"),
    "a digest in a name": ({**TARBALL, "name": "a@sha256:00"}, "image.name"),
    "unknown option": ({"name": "x", "source": "busybox", "colour": "red"}, "colour"),
    "option of another source": (
        {"name": "x", "source": "busybox", "path": "/x"},
        "is not an option of source busybox",
    ),
    "slashes out": ({**TARBALL, "name": "../x"}, "image.name"),
    "newline": ({**TARBALL, "name": "a\nb"}, "image.name"),
    "long": ({**TARBALL, "name": "a" * 81}, "image.name"),
    "hidden": ({**TARBALL, "name": ".tmp"}, "image.name"),
    "no checksum": ({**TARBALL, "checksum": None}, "has no checksum"),
    "bad checksum": ({**TARBALL, "checksum": "md5:00"}, "image.checksum"),
    "short checksum": ({**TARBALL, "checksum": SHA256[:-1]}, "image.checksum"),
    "neither": ({**TARBALL, "path": None}, "neither path, url nor src"),
    "both": ({**TARBALL, "url": "http://h/x"}, "both path and url"),
    "relative path": ({**TARBALL, "path": "x.tar"}, "image.path"),
    "file url": ({**TARBALL, "path": None, "url": "file:///etc/passwd"}, "image.url"),
    "ftp url": ({**TARBALL, "path": None, "url": "ftp://h/x"}, "image.url"),
    "url with password": ({**TARBALL, "path": None, "url": "https://u:p@h/x"}, "image.url"),
    "url with newline": ({**TARBALL, "path": None, "url": "https://h/x\nY: z"}, "image.url"),
    "negative size": ({**TARBALL, "max_size": -1}, "image.max_size"),
    "zero files": ({**TARBALL, "max_files": 0}, "image.max_files"),
    "bad state": ({"name": "x", "state": "gone"}, "image.state"),
    "no mapping": ("busybox", "image"),
}


@pytest.mark.parametrize("raw, message", BAD.values(), ids=BAD.keys())
def test_bad_options_are_named(raw: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        images.normalise(raw)


def test_items_are_named_by_index_and_names_are_unique() -> None:
    with pytest.raises(SpecError, match=r"images\[1\].source"):
        images.normalise_all([{"name": "a", "source": "busybox"}, {"name": "b"}])
    with pytest.raises(SpecError, match="twice"):
        images.normalise_all([TARBALL, TARBALL])


# -- records --------------------------------------------------------------------------------------


def test_an_unknown_image_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="image: 'x' is not an image.*known images: none"):
        images.lookup(Site(str(tmp_path)), "x")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": 99}', b"\xff", b'{"schema": 1, "na']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: bytes) -> None:
    paths = Site(str(tmp_path))
    os.makedirs(paths.images)
    Path(f"{paths.images}/x.json").write_bytes(text)
    with pytest.raises(StateError, match="x.json"):
        images.observe(paths)


def test_a_lost_tree_is_told(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    os.makedirs(paths.images)
    record = images.Image("x", "00", f"{paths.images}/trees/00/root", "busybox").to_json()
    store.write(f"{paths.images}/x.json", record)
    assert images.observe(paths)["x"].digest == "00"
    with pytest.raises(StateError, match="lost its tree"):
        images.lookup(paths, "x")


def test_planning_touches_nothing(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    specs = images.normalise_all([{"name": "b", "source": "busybox"}, TARBALL])
    found = [each.describe() for each in images.operations(paths, specs, purge=True)]
    assert len(found) == 2
    assert found[1] == f"image debian: make {'0a' * 6} from tarball"
    assert os.listdir(tmp_path) == []


# -- busybox --------------------------------------------------------------------------------------


def _elf(*types: int, bits: int = 64, order: str = "<") -> bytes:
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 64:
        head = struct.pack(
            f"{order}HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(types), 0, 0, 0
        )
        size = 56
    else:
        head = struct.pack(
            f"{order}HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, len(types), 0, 0, 0
        )
        size = 32
    headers = b"".join(struct.pack(f"{order}I", each).ljust(size, b"\0") for each in types)
    return ident + head + headers


def is_static(content: bytes) -> bool:
    return elf.interpreter(io.BytesIO(content)) is None


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_static_means_no_interpreter(bits: int, order: str) -> None:
    assert is_static(_elf(1, 1, 2, bits=bits, order=order))
    assert not is_static(_elf(1, 3, 2, bits=bits, order=order))


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" + b" " * 100, _elf(), _elf(1, 1)[:100]])
def test_what_is_no_program_is_not_static(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(elf.NotElf):
        is_static(content)
    (tmp_path / "busybox").write_bytes(content)
    monkeypatch.setattr(busybox, "CANDIDATES", (str(tmp_path / "busybox"), "/no/such"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert busybox.find() is None


def test_real_programs() -> None:
    assert os.path.exists(programs.linker("/bin/sh")) and not programs.linker("/no/such")


# -- the tar reader -------------------------------------------------------------------------------

LONG = "d" * 90 + "/" + "f" * 250
NAMES = ["./", "./a", "b/", "b/ünïcode", "b/" + LONG, "c" * 150 + "/x"]


def _sample(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number, name in enumerate(NAMES):
            if form == tarfile.USTAR_FORMAT and len(name) > 255:
                continue
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid, member.mtime = 0o4751, 33, 34, 1_500_000_000
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            else:
                member.size = number * 700
            archive.addfile(member, io.BytesIO(bytes([number]) * member.size))
        for kind, target in ((tarfile.SYMTYPE, "x" * 90), (tarfile.LNKTYPE, "./a")):
            member = tarfile.TarInfo(f"link{kind!r}")
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_reader_agrees_with_tarfile(form: int) -> None:
    data = _sample(form)
    stream = TarStream(io.BytesIO(data))
    mine = [(m.name.rstrip(b"/"), m.mode, m.uid, m.gid, m.size, m.mtime, m.link) for m in stream]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [
            (
                m.name.encode().rstrip(b"/"),
                m.mode,
                m.uid,
                m.gid,
                m.size,
                m.mtime,
                m.linkname.encode(),
            )
            for m in archive
        ]
    assert mine == theirs and len(mine) >= 6


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_data_can_be_read_or_skipped(form: int) -> None:
    stream = TarStream(io.BytesIO(_sample(form)))
    for number, member in enumerate(stream):
        if number % 2 and member.size:
            data = b"".join(stream.data())
            assert data == data[:1] * member.size


@pytest.mark.parametrize("command", [["tar"], ["busybox", "tar"]])
@pytest.mark.parametrize("options", [[], ["--format=v7"], ["--format=posix"], ["--format=oldgnu"]])
def test_archives_of_other_programs(tmp_path: Path, command: list[str], options: list[str]) -> None:
    if not shutil.which(command[0]) or (command[0] == "busybox" and options):
        pytest.skip("not here")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"content")
    os.symlink("f", tmp_path / "d" / "l")
    made = subprocess.run([*command, *options, "-cf", "-", "d"], cwd=tmp_path, capture_output=True)
    stream = TarStream(io.BytesIO(made.stdout))
    found = {m.name.rstrip(b"/"): (m.kind, b"".join(stream.data()), m.link) for m in stream}
    assert found[b"d/f"] == ("file", b"content", b"")
    assert found[b"d/l"][0] == "symbolic link" and found[b"d/l"][2] == b"f"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_truncation_is_noticed(form: int) -> None:
    """Between two members only by the end that is missing."""
    data = _sample(form).rstrip(b"\0")
    for length in [*range(0, len(data), 97), *range(0, len(data), 512)]:
        stream = TarStream(io.BytesIO(data[:length]))
        try:
            list(stream)
        except ArchiveError as error:
            assert "truncated" in error.message
        else:
            assert length % 512 == 0 and not stream.ended
    stream = TarStream(io.BytesIO(_sample(form)))
    assert list(stream) and stream.ended


def _header(**changes: bytes) -> bytes:
    fields = {
        "name": (0, b"x"),
        "mode": (100, b"0000644\0"),
        "uid": (108, b"0000000\0"),
        "gid": (116, b"0000000\0"),
        "size": (124, b"00000000000\0"),
        "mtime": (136, b"00000000000\0"),
        "type": (156, b"0"),
        "magic": (257, b"ustar\x0000"),
        "parts": (386, b""),
        "more": (482, b""),
        "real": (483, b""),
    }
    block = bytearray(512)
    for key, (offset, default) in fields.items():
        value = changes.get(key, default)
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _sparse_header(*parts: tuple[int, int], size: int, stored: int) -> bytes:
    found = b"".join(b"%011o\0%011o\0" % part for part in parts)
    return _header(type=b"S", parts=found, real=b"%011o\0" % size, size=b"%011o\0" % stored)


def _pax_sparse(records: dict[str, str], data: bytes = b"") -> bytes:
    text = b""
    for key, value in records.items():
        body = f" GNU.sparse.{key}={value}\n".encode()
        length = len(body) + 1
        while len(b"%d" % length) + len(body) != length:
            length += 1
        text += b"%d" % length + body
    head = _header(type=b"x", size=b"%011o\0" % len(text))
    return head + text + bytes(-len(text) % 512) + _header(size=b"%011o\0" % len(data)) + data


HOSTILE = {
    "negative size": _header(size=b"\xff" * 12),
    "huge size": _header(size=b"\x80" + b"\x7f" * 11),
    "negative extension": _header(type=b"L", size=b"\xff" * 12),
    "huge name": _header(type=b"L", size=b"%011o\0" % (MAX_EXTENSION + 1)),
    "huge pax": _header(type=b"x", size=b"77777777777\0"),
    "endless extensions": _header(type=b"L", size=b"00000000001\0") + bytes(512),
    "not a number": _header(size=b"12x45678901\0"),
    "bad checksum": _header()[:-1] + b"x",
    "pax of length zero": _header(type=b"x", size=b"00000000006\0") + b"0 a=b\n".ljust(512, b"\0"),
    "pax beyond its end": _header(type=b"x", size=b"00000000006\0") + b"99 a=b".ljust(512, b"\0"),
    "pax of digits": _header(type=b"x", size=b"00000001000\0") + b"1" * 512,
    "pax size": _header(type=b"x", size=b"00000000013\0") + b"11 size=-1\n".ljust(512, b"\0"),
    "unknown type": _header(type=b"Q"),
    "sparse, more stored than there is": _header(type=b"S", size=b"00000000001\0"),
    "multi volume": _header(type=b"M"),
    "sparse, endless": _header(type=b"S", more=b"\1") + b"".ljust(504, b"\0") + b"\1" * 8,
    "sparse, endless parts": _header(type=b"S", more=b"\1")
    + b"00000000001\0" * 42
    + b"\1".ljust(8, b"\0"),
    "sparse, parts beyond the end": _sparse_header((0, 1), (10, 10), size=19, stored=11),
    "sparse, parts overlap": _sparse_header((0, 10), (5, 10), size=100, stored=20),
    "sparse, less stored than parts": _sparse_header((0, 10), size=100, stored=9),
    "sparse, negative": _header(type=b"S", parts=b"\xff" * 24),
    "sparse, unknown version": _pax_sparse({"major": "9", "minor": "9"}),
    "sparse, no numbers": _pax_sparse({"map": "a,b", "size": "9"}),
    "sparse, odd map": _pax_sparse({"map": "0,1,2", "size": "9"}),
    "sparse, huge size": _pax_sparse({"map": "0,1", "size": "9" * 30}),
    "sparse, many parts": _pax_sparse({"map": "0,0," * (1 << 17), "size": "9"}),
    "sparse, map is no text": _pax_sparse({"major": "1", "minor": "0", "realsize": "9"}),
    "sparse, map is long": _pax_sparse(
        {"major": "1", "minor": "0", "realsize": "9"}, b"99999999\n".ljust(512, b"\n")
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_crafted_headers_end_in_an_error(data: bytes) -> None:
    class Endless(io.RawIOBase):
        """Goes on for ever: only a bounded reader comes back."""

        position = 0

        def read(self, size: int = -1, /) -> bytes:
            start = self.position
            self.position += size
            return (data * (2 + size // len(data)))[start % len(data) :][:size]

    stream = TarStream(Endless())
    with pytest.raises(ArchiveError):
        for _, member in zip(range(10), stream):
            if member.size > 1 << 40:
                raise ArchiveError("the unpacker's bound")
