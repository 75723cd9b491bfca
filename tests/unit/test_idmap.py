# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Subordinate ids: reading any file, never overlapping, changing nothing that is not ours."""

from __future__ import annotations

import contextlib
import os
import random
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from idmap_fixtures import content, converge, listing, paths, plan
from sandlot import idmap
from sandlot.errors import ForeignError, HostError, SpecError
from sandlot.idmap import FIRST, LAST, SIZE, IdRange, edit
from sandlot.idmap.files import line_of
from sandlot.plan import apply_all
from sandlot.site import Site

SLOTS = (LAST + 1 - FIRST) // SIZE
__all__ = ["paths"]


# -- allocation ---------------------------------------------------------------------------------


def test_ranges_are_aligned_distinct_and_the_same_in_both_files(paths: Site) -> None:
    assert converge(paths, "web", "worker") == [
        f"{paths.subuid}: add web worker",
        f"{paths.subgid}: add web worker",
    ]
    expected = f"sandlot.web:{FIRST}:65536\nsandlot.worker:{FIRST + SIZE}:65536\n".encode()
    assert content(paths) == (expected, expected)
    assert FIRST % SIZE == 0 and (LAST + 1) % SIZE == 0


def test_the_pool_meets_no_default_range_of_another_allocator() -> None:
    pool = IdRange(FIRST, LAST + 1 - FIRST)
    taken = [
        (0, 65535),
        (100000, 600100000),
        (524288, 1879048191),
        (200000, 2000200000),
        (2147352576, 2147418111),
        (2**31, 2**32 - 1),
    ]
    assert not [span for span in taken if pool.overlaps(IdRange(span[0], span[1] + 1 - span[0]))]


def test_existing_ranges_are_kept_wherever_they_are(paths: Site) -> None:
    for file in (paths.subuid, paths.subgid):
        Path(file).write_text("sandlot.old:200000:65536\n")
    files = idmap.observe(paths)
    assert idmap.allocate(files, ["new", "old"]) == {"new": IdRange(FIRST), "old": IdRange(200000)}


def test_a_freed_slot_is_used_again(paths: Site) -> None:
    converge(paths, "a", "b", "c")
    converge(paths, "a", "c", absent=("b",))
    converge(paths, "a", "c", "d")
    assert idmap.allocate(idmap.observe(paths), ["d"])["d"].start == FIRST + SIZE


EDGES = {
    "first id": (FIRST, 1),
    "last id": (FIRST + SIZE - 1, 1),
    "across the start": (FIRST - 1, 2),
    "across the end into the second": (FIRST + SIZE - 1, 2),
    "inside": (FIRST + 100, 10),
    "exact": (FIRST, SIZE),
    "around": (FIRST - 5, SIZE + 10),
}


@pytest.mark.parametrize("file", ["subuid", "subgid"])
@pytest.mark.parametrize("span", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("owner", ["joe", "1000", "#joe", ""])
def test_foreign_subordinate_ranges_are_avoided(
    paths: Site, file: str, span: tuple[int, int], owner: str
) -> None:
    Path(f"{paths.root}/etc/{file}").write_text(f"{owner}:{span[0]}:{span[1]}\n")
    got = idmap.allocate(idmap.observe(paths), ["web"])["web"]
    assert not got.overlaps(IdRange(*span))
    assert got.start <= FIRST + 2 * SIZE


@pytest.mark.parametrize("neighbour", [(FIRST - 10, 10), (FIRST + SIZE, 1)])
def test_touching_is_not_overlapping(paths: Site, neighbour: tuple[int, int]) -> None:
    Path(paths.subuid).write_text(f"joe:{neighbour[0]}:{neighbour[1]}\n")
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST


@pytest.mark.parametrize("database", ["passwd", "group"])
@pytest.mark.parametrize("offset", [0, 1, SIZE - 1])
def test_real_users_and_groups_are_avoided(paths: Site, database: str, offset: int) -> None:
    with open(f"{paths.root}/etc/{database}", "a") as handle:
        handle.write(f"joe:x:{FIRST + offset}:100::/:/bin/sh\n")
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST + SIZE


def test_hexadecimal_octal_and_crlf_lines_count_as_taken(paths: Site) -> None:
    lines = f"a:{FIRST:#x}:65536\nb:0{FIRST + SIZE:o}:65536\nc:{FIRST + 2 * SIZE}:65536\r\n"
    Path(paths.subuid).write_bytes(lines.encode())
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST + 3 * SIZE


def test_an_exhausted_pool_is_one_clear_error(paths: Site) -> None:
    Path(paths.subgid).write_text(f"joe:{FIRST}:{(SLOTS - 2) * SIZE}\n")
    assert len(idmap.allocate(idmap.observe(paths), ["a", "b"])) == 2
    with pytest.raises(ForeignError, match="3 id ranges are needed and 2 are free"):
        idmap.allocate(idmap.observe(paths), ["a", "b", "c"])


@pytest.mark.parametrize(
    "name", ["", "-x", "a:b", "a\nb", "../x", "a..b", "a b", "x" * 64, "wéb", "web\n", "аdmin"]
)
def test_names_cannot_forge_lines(paths: Site, name: str) -> None:
    with pytest.raises(SpecError, match="name"):
        idmap.allocate(idmap.observe(paths), [name])


# -- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "sandlot.web:abc:65536",
        "sandlot.web:300000:1000",
        "sandlot.web:300000:65536\r",
        "sandlot.web:300000",
        "sandlot.web:300000:65536:x",
        "sandlot.web:0x50000:65536",
        "sandlot.web:0:65536",
        "sandlot.web:1000:65536",
        f"sandlot.web:{2**32 - SIZE}:65536",
        "sandlot.web: 300000:65536",
    ],
)
def test_a_malformed_line_of_ours_is_named(paths: Site, line: str) -> None:
    Path(paths.subuid).write_bytes(line.encode() + b"\n")
    with pytest.raises(ForeignError, match="subuid line 1"):
        idmap.allocate(idmap.observe(paths), ["other"])


@pytest.mark.parametrize("span", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("file", ["subuid", "subgid"])
def test_an_overlap_with_a_foreign_line_names_both(
    paths: Site, file: str, span: tuple[int, int]
) -> None:
    converge(paths, "web")
    with open(f"{paths.root}/etc/{file}", "a") as handle:
        handle.write(f"joe:{span[0]}:{span[1]}\n")
    with pytest.raises(ForeignError) as caught:
        idmap.allocate(idmap.observe(paths), ["web"])
    assert "sandlot.web" in str(caught.value) and f"{file} line 2 ('joe:" in str(caught.value)


def test_a_small_foreign_line_after_a_wide_one_is_still_found(paths: Site) -> None:
    converge(paths, "web")
    Path(paths.subgid).write_text(f"wide:100000:10\nsandlot.web:{FIRST}:65536\n")
    Path(paths.subuid).write_text(
        f"around:{FIRST - 10}:{SIZE * 3}\nsmall:{FIRST - 5}:1\nsandlot.web:{FIRST}:65536\n"
    )
    with pytest.raises(ForeignError, match="around"):
        idmap.allocate(idmap.observe(paths), ["web"])


def test_two_sandboxes_on_one_range_are_refused(paths: Site) -> None:
    text = f"sandlot.a:{FIRST}:65536\nsandlot.b:{FIRST + 1}:65536\n"
    Path(paths.subuid).write_text(text)
    with pytest.raises(ForeignError, match="sandlot.b.*overlaps.*sandlot.a"):
        idmap.allocate(idmap.observe(paths), ["c"])


def test_two_ranges_for_one_sandbox_are_refused(paths: Site) -> None:
    Path(paths.subuid).write_text(f"sandlot.a:{FIRST}:65536\n")
    Path(paths.subgid).write_text(f"sandlot.a:{FIRST + SIZE}:65536\n")
    with pytest.raises(ForeignError, match="subuid line 1.*subgid line 1.*two ranges"):
        idmap.allocate(idmap.observe(paths), ["a"])


def test_a_range_other_than_the_recorded_one_is_refused(paths: Site) -> None:
    converge(paths, "a")
    with pytest.raises(ForeignError, match="is not the range 500000:65536"):
        idmap.operations(paths, idmap.observe(paths), {"a": IdRange(500000)})


def test_a_foreign_line_that_appears_after_planning_is_not_overlapped(paths: Site) -> None:
    operations = plan(paths, "web")
    Path(paths.subuid).write_text(f"joe:{FIRST}:65536\n")
    with pytest.raises(ForeignError, match="joe"):
        apply_all(operations)
    assert content(paths) == (f"joe:{FIRST}:65536\n".encode(), b"")


def test_a_recorded_range_whose_lines_were_lost_is_not_given_away(paths: Site) -> None:
    reserved = {"web": IdRange(FIRST)}
    got = idmap.allocate(idmap.observe(paths), ["new", "web"], reserved=reserved)
    assert got == {"new": IdRange(FIRST + SIZE), "web": IdRange(FIRST)}


def test_a_record_that_contradicts_a_line_is_named(paths: Site) -> None:
    converge(paths, "web")
    with pytest.raises(ForeignError, match="record of sandbox 'web'.*two ranges"):
        reserved = {"web": IdRange(FIRST + SIZE)}
        idmap.allocate(idmap.observe(paths), [], reserved=reserved)


def test_ranges_that_overlap_each_other_are_never_written(paths: Site) -> None:
    with pytest.raises(ForeignError, match="'a' and 'b' have overlapping ids"):
        wanted = {"b": IdRange(FIRST + 1), "a": IdRange(FIRST)}
        idmap.operations(paths, idmap.observe(paths), wanted)


def test_a_contradiction_can_be_removed(paths: Site) -> None:
    converge(paths, "web")
    Path(paths.subuid).write_text(f"joe:{FIRST}:65536\nsandlot.web:{FIRST}:65536\n")
    with pytest.raises(ForeignError):
        idmap.allocate(idmap.observe(paths), ["new"])
    files = idmap.observe(paths)
    new = idmap.allocate(files, ["new"], leaving=["web"])
    apply_all(idmap.operations(paths, files, new, ["web"]))
    line = f"sandlot.new:{FIRST + SIZE}:65536\n"
    assert content(paths) == (f"joe:{FIRST}:65536\n{line}".encode(), line.encode())


# -- foreign bytes -------------------------------------------------------------------------------

MESSY = {
    "empty": b"",
    "plain": b"joe:100000:65536\n",
    "no final newline": b"joe:100000:65536",
    "comments and blanks": b"# managed by hand\n\n  \njoe:100000:65536\n\n",
    "crlf": b"joe:100000:65536\r\nann:165536:65536\r\n",
    "crlf without end": b"joe:100000:65536\r\nann:165536:65536",
    "duplicates": b"joe:100000:65536\njoe:100000:65536\n",
    "numeric owners": b"1000:100000:65536\n1001:165536:65536\n",
    "malformed": b"joe\njoe:\njoe:1\n:::\njoe:x:y:z\n:1:1\n-:5:-5\n",
    "binary": bytes(range(256)) + b"\n\xff\xfe",
    "lone cr": b"joe:100000:65536\rann:1:2\n",
    "nul": b"a\0b\n",
    "look-alikes": b"#sandlot.web:1:2\n sandlot.web:1:2\nSandlot.web:70000:2\nsandlotXweb:9:9\n",
    "nis": b"+\n",
}


@pytest.mark.parametrize("before", MESSY.values(), ids=MESSY.keys())
def test_foreign_bytes_stay_and_removal_restores_the_file(paths: Site, before: bytes) -> None:
    for file in (paths.subuid, paths.subgid):
        Path(file).write_bytes(before)
    names = listing(paths)
    converge(paths, "web", "worker")
    for after in content(paths):
        lines = (b"sandlot.web:%d:65536\n" % FIRST, b"sandlot.worker:%d:65536\n" % (FIRST + SIZE))
        assert after.replace(lines[0] + lines[1], b"") == before
    assert len(idmap.allocate(idmap.observe(paths), ["web", "worker"])) == 2
    converge(paths, absent=("web", "worker"))
    assert content(paths) == (before, before)
    assert listing(paths) == names


def test_repeated_lines_of_ours_become_one(paths: Site) -> None:
    line = b"sandlot.web:%d:65536\n" % FIRST
    Path(paths.subuid).write_bytes(line + b"joe:1:1\n" + line)
    converge(paths, "web")
    assert content(paths) == (b"joe:1:1\n" + line, line)


def test_removal_takes_malformed_lines_of_that_sandbox_only(paths: Site) -> None:
    Path(paths.subuid).write_bytes(b"sandlot.a:x:y\nsandlot.ab:300000:65536\nsandlot.a\n")
    apply_all(idmap.operations(paths, idmap.observe(paths), {}, ["a"]))
    assert content(paths)[0] == b"sandlot.ab:300000:65536\nsandlot.a\n"


def test_mode_is_preserved(paths: Site) -> None:
    os.chmod(paths.subuid, 0o640)
    converge(paths, "web")
    assert stat.S_IMODE(os.stat(paths.subuid).st_mode) == 0o640


def test_missing_files_are_made_and_removed_again(paths: Site) -> None:
    os.unlink(paths.subuid)
    os.unlink(paths.subgid)
    names = listing(paths)
    old = os.umask(0o077)
    try:
        converge(paths, "web")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(paths.subuid).st_mode) == 0o644
    converge(paths, absent=("web",))
    assert listing(paths) == names
    assert not os.path.exists(f"{paths.state}/subids.json")


def test_a_file_of_ours_that_others_use_now_stays(paths: Site) -> None:
    os.unlink(paths.subuid)
    converge(paths, "web")
    with open(paths.subuid, "a") as handle:
        handle.write("joe:100000:65536\n")
    converge(paths, absent=("web",))
    assert content(paths) == (b"joe:100000:65536\n", b"")


def test_a_symbolic_link_stays_one(paths: Site, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "ids").write_bytes(b"joe:100000:65536\n")
    os.unlink(paths.subuid)
    os.symlink("../elsewhere/ids", paths.subuid)
    converge(paths, "web")
    assert os.readlink(paths.subuid) == "../elsewhere/ids"
    assert (real / "ids").read_bytes().startswith(b"joe:100000:65536\nsandlot.web:")
    assert os.listdir(real) == ["ids"]


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_other_file_types_are_refused_without_blocking(paths: Site, kind: str) -> None:
    os.unlink(paths.subuid)
    (os.mkfifo if kind == "fifo" else os.mkdir)(paths.subuid)
    with pytest.raises(HostError, match="not a regular file"):
        idmap.observe(paths)


def test_an_overlap_is_found_wherever_it_is() -> None:
    """Against a comparison of all with all."""
    chance = random.Random(3)

    def ranges(prefix: str, number: int) -> dict[str, IdRange]:
        spans = [(chance.randrange(1, 200), chance.randrange(1, 12)) for _ in range(number)]
        return {f"{prefix}{index}": IdRange(*span) for index, span in enumerate(spans)}

    found = 0
    for _ in range(300):
        add, present = ranges("n", 2), ranges("n", 2)
        lines = [line_of(name, ids, "here") for name, ids in present.items()]
        lines += [replace(line_of(n, ids, "here"), owner=n) for n, ids in ranges("f", 3).items()]
        overlap = any(
            line.name != name and line.ids and line.ids.overlaps(ids)
            for name, ids in add.items()
            for line in lines
        )
        found += overlap
        with pytest.raises(ForeignError) if overlap else contextlib.nullcontext():
            edit._refuse_overlaps(add, lines)
    assert 50 < found < 250
