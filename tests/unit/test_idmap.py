# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Subordinate ids: reading any file, never overlapping, changing nothing that is not ours."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sandlot import idmap
from sandlot.errors import ForeignError, HostError, SandlotError, SpecError
from sandlot.idmap import FIRST, LAST, SIZE, IdRange, lockfile
from sandlot.paths import Paths
from sandlot.plan import apply_all, descriptions

SLOTS = (LAST + 1 - FIRST) // SIZE


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "subuid").write_bytes(b"")
    (etc / "subgid").write_bytes(b"")
    return Paths(str(tmp_path))


def plan(paths: Paths, *names: str, absent: tuple[str, ...] = ()):
    files = idmap.observe(paths)
    return idmap.operations(paths, files, idmap.allocate(files, names), absent)


def converge(paths: Paths, *names: str, absent: tuple[str, ...] = ()) -> list[str]:
    operations = plan(paths, *names, absent=absent)
    apply_all(operations)
    assert plan(paths, *names, absent=absent) == []
    return descriptions(operations)


def content(paths: Paths) -> tuple[bytes, bytes]:
    return Path(paths.subuid).read_bytes(), Path(paths.subgid).read_bytes()


def listing(paths: Paths) -> list[str]:
    return sorted(os.listdir(f"{paths.root}/etc"))


# -- allocation ---------------------------------------------------------------------------------


def test_ranges_are_aligned_distinct_and_the_same_in_both_files(paths: Paths) -> None:
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


def test_existing_ranges_are_kept_wherever_they_are(paths: Paths) -> None:
    for file in (paths.subuid, paths.subgid):
        Path(file).write_text("sandlot.old:200000:65536\n")
    files = idmap.observe(paths)
    assert idmap.allocate(files, ["new", "old"]) == {"new": IdRange(FIRST), "old": IdRange(200000)}


def test_a_freed_slot_is_used_again(paths: Paths) -> None:
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
    paths: Paths, file: str, span: tuple[int, int], owner: str
) -> None:
    Path(f"{paths.root}/etc/{file}").write_text(f"{owner}:{span[0]}:{span[1]}\n")
    got = idmap.allocate(idmap.observe(paths), ["web"])["web"]
    assert not got.overlaps(IdRange(*span))
    assert got.start <= FIRST + 2 * SIZE


@pytest.mark.parametrize("neighbour", [(FIRST - 10, 10), (FIRST + SIZE, 1)])
def test_touching_is_not_overlapping(paths: Paths, neighbour: tuple[int, int]) -> None:
    Path(paths.subuid).write_text(f"joe:{neighbour[0]}:{neighbour[1]}\n")
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST


@pytest.mark.parametrize("database", ["passwd", "group"])
@pytest.mark.parametrize("offset", [0, 1, SIZE - 1])
def test_real_users_and_groups_are_avoided(paths: Paths, database: str, offset: int) -> None:
    with open(f"{paths.root}/etc/{database}", "a") as handle:
        handle.write(f"joe:x:{FIRST + offset}:100::/:/bin/sh\n")
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST + SIZE


def test_hexadecimal_octal_and_crlf_lines_count_as_taken(paths: Paths) -> None:
    lines = f"a:{FIRST:#x}:65536\nb:0{FIRST + SIZE:o}:65536\nc:{FIRST + 2 * SIZE}:65536\r\n"
    Path(paths.subuid).write_bytes(lines.encode())
    assert idmap.allocate(idmap.observe(paths), ["web"])["web"].start == FIRST + 3 * SIZE


def test_an_exhausted_pool_is_one_clear_error(paths: Paths) -> None:
    Path(paths.subgid).write_text(f"joe:{FIRST}:{(SLOTS - 2) * SIZE}\n")
    assert len(idmap.allocate(idmap.observe(paths), ["a", "b"])) == 2
    with pytest.raises(ForeignError, match="3 id ranges are needed and 2 are free"):
        idmap.allocate(idmap.observe(paths), ["a", "b", "c"])


@pytest.mark.parametrize(
    "name", ["", "-x", "a:b", "a\nb", "../x", "a..b", "a b", "x" * 64, "wéb", "web\n", "аdmin"]
)
def test_names_cannot_forge_lines(paths: Paths, name: str) -> None:
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
def test_a_malformed_line_of_ours_is_named(paths: Paths, line: str) -> None:
    Path(paths.subuid).write_bytes(line.encode() + b"\n")
    with pytest.raises(ForeignError, match="subuid line 1"):
        idmap.allocate(idmap.observe(paths), ["other"])


@pytest.mark.parametrize("span", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("file", ["subuid", "subgid"])
def test_an_overlap_with_a_foreign_line_names_both(
    paths: Paths, file: str, span: tuple[int, int]
) -> None:
    converge(paths, "web")
    with open(f"{paths.root}/etc/{file}", "a") as handle:
        handle.write(f"joe:{span[0]}:{span[1]}\n")
    with pytest.raises(ForeignError) as caught:
        idmap.allocate(idmap.observe(paths), ["web"])
    assert "sandlot.web" in str(caught.value) and f"{file} line 2 ('joe:" in str(caught.value)


def test_a_small_foreign_line_after_a_wide_one_is_still_found(paths: Paths) -> None:
    converge(paths, "web")
    Path(paths.subgid).write_text(f"wide:100000:10\nsandlot.web:{FIRST}:65536\n")
    Path(paths.subuid).write_text(
        f"around:{FIRST - 10}:{SIZE * 3}\nsmall:{FIRST - 5}:1\nsandlot.web:{FIRST}:65536\n"
    )
    with pytest.raises(ForeignError, match="around"):
        idmap.allocate(idmap.observe(paths), ["web"])


def test_two_sandboxes_on_one_range_are_refused(paths: Paths) -> None:
    text = f"sandlot.a:{FIRST}:65536\nsandlot.b:{FIRST + 1}:65536\n"
    Path(paths.subuid).write_text(text)
    with pytest.raises(ForeignError, match="sandlot.b.*overlaps.*sandlot.a"):
        idmap.allocate(idmap.observe(paths), ["c"])


def test_two_ranges_for_one_sandbox_are_refused(paths: Paths) -> None:
    Path(paths.subuid).write_text(f"sandlot.a:{FIRST}:65536\n")
    Path(paths.subgid).write_text(f"sandlot.a:{FIRST + SIZE}:65536\n")
    with pytest.raises(ForeignError, match="subuid line 1.*subgid line 1.*two ranges"):
        idmap.allocate(idmap.observe(paths), ["a"])


def test_a_range_other_than_the_recorded_one_is_refused(paths: Paths) -> None:
    converge(paths, "a")
    with pytest.raises(ForeignError, match="is not the range 500000:65536"):
        idmap.operations(paths, idmap.observe(paths), {"a": IdRange(500000)})


def test_a_foreign_line_that_appears_after_planning_is_not_overlapped(paths: Paths) -> None:
    operations = plan(paths, "web")
    Path(paths.subuid).write_text(f"joe:{FIRST}:65536\n")
    with pytest.raises(ForeignError, match="joe"):
        apply_all(operations)
    assert content(paths) == (f"joe:{FIRST}:65536\n".encode(), b"")


def test_a_recorded_range_whose_lines_were_lost_is_not_given_away(paths: Paths) -> None:
    reserved = {"web": IdRange(FIRST)}
    got = idmap.allocate(idmap.observe(paths), ["new", "web"], reserved=reserved)
    assert got == {"new": IdRange(FIRST + SIZE), "web": IdRange(FIRST)}


def test_a_record_that_contradicts_a_line_is_named(paths: Paths) -> None:
    converge(paths, "web")
    with pytest.raises(ForeignError, match="record of sandbox 'web'.*two ranges"):
        reserved = {"web": IdRange(FIRST + SIZE)}
        idmap.allocate(idmap.observe(paths), [], reserved=reserved)


def test_ranges_that_overlap_each_other_are_never_written(paths: Paths) -> None:
    with pytest.raises(ForeignError, match="'a' and 'b' have overlapping ids"):
        wanted = {"b": IdRange(FIRST + 1), "a": IdRange(FIRST)}
        idmap.operations(paths, idmap.observe(paths), wanted)


def test_a_contradiction_can_be_removed(paths: Paths) -> None:
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
def test_foreign_bytes_stay_and_removal_restores_the_file(paths: Paths, before: bytes) -> None:
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


def test_repeated_lines_of_ours_become_one(paths: Paths) -> None:
    line = b"sandlot.web:%d:65536\n" % FIRST
    Path(paths.subuid).write_bytes(line + b"joe:1:1\n" + line)
    converge(paths, "web")
    assert content(paths) == (b"joe:1:1\n" + line, line)


def test_removal_takes_malformed_lines_of_that_sandbox_only(paths: Paths) -> None:
    Path(paths.subuid).write_bytes(b"sandlot.a:x:y\nsandlot.ab:300000:65536\nsandlot.a\n")
    apply_all(idmap.operations(paths, idmap.observe(paths), {}, ["a"]))
    assert content(paths)[0] == b"sandlot.ab:300000:65536\nsandlot.a\n"


def test_mode_is_preserved(paths: Paths) -> None:
    os.chmod(paths.subuid, 0o640)
    converge(paths, "web")
    assert stat.S_IMODE(os.stat(paths.subuid).st_mode) == 0o640


def test_missing_files_are_made_and_removed_again(paths: Paths) -> None:
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


def test_a_file_of_ours_that_others_use_now_stays(paths: Paths) -> None:
    os.unlink(paths.subuid)
    converge(paths, "web")
    with open(paths.subuid, "a") as handle:
        handle.write("joe:100000:65536\n")
    converge(paths, absent=("web",))
    assert content(paths) == (b"joe:100000:65536\n", b"")


def test_a_symbolic_link_stays_one(paths: Paths, tmp_path: Path) -> None:
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
def test_other_file_types_are_refused_without_blocking(paths: Paths, kind: str) -> None:
    os.unlink(paths.subuid)
    (os.mkfifo if kind == "fifo" else os.mkdir)(paths.subuid)
    with pytest.raises(HostError, match="not a regular file"):
        idmap.observe(paths)


# -- interrupted and concurrent runs --------------------------------------------------------------


@pytest.mark.parametrize("done", [1, 2])
def test_a_half_written_pair_is_completed(paths: Paths, done: int) -> None:
    apply_all(plan(paths, "web")[:1])
    assert converge(paths, "web") == [f"{paths.subgid}: add web"]
    apply_all(plan(paths, absent=("web",))[:1])
    assert converge(paths, absent=("web",)) == [f"{paths.subgid}: remove web"]
    assert content(paths) == (b"", b"")


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_lock_of_a_dead_process_is_broken(paths: Paths) -> None:
    Path(f"{paths.subuid}.lock").write_bytes(b"%d\0" % _dead_pid())
    converge(paths, "web")
    assert "subuid.lock" not in listing(paths)


def test_the_lock_of_a_zombie_is_broken(paths: Paths) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    Path(f"{paths.subuid}.lock").write_bytes(b"%d\0" % process.pid)
    converge(paths, "web")
    process.wait()


def test_the_lock_of_a_live_process_is_honoured(paths: Paths) -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    lock = Path(f"{paths.subuid}.lock")
    lock.write_bytes(b"%d\0" % process.pid)
    with pytest.raises(ForeignError, match=f"process {process.pid} holds .*subuid.lock"):
        with lockfile.locked(paths.subuid, wait=0.1):
            pass
    assert lock.read_bytes() == b"%d\0" % process.pid
    process.communicate(b"")
    converge(paths, "web")


def test_a_lock_taken_while_another_is_found_stale_stays(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder lets go and ends after its pid was read; a third process wants the lock then."""
    lock = f"{paths.subuid}.lock"
    Path(lock).write_bytes(b"%d\0" % _dead_pid())
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def take() -> None:
        theirs.recv()
        theirs.send(lockfile._link(paths.subuid, lock))
        theirs.recv()

    def ended(pid: int) -> bool:
        os.unlink(lock)
        ours.send("take it")
        ours.poll(0.5)
        return False

    # Started first: a child would share the open file that its parent has locked.
    taker = context.Process(target=take, daemon=True)
    taker.start()
    with monkeypatch.context() as patched:
        patched.setattr(lockfile, "_alive", ended)
        lockfile._break_stale(lock)
    assert ours.poll(20) and ours.recv() is True
    assert lockfile.holder(lock) == taker.pid
    ours.send("end")
    taker.join()


@pytest.mark.parametrize("text", [b"", b"joe\0"])
def test_a_lock_without_a_pid_is_nobodys_to_break(paths: Paths, text: bytes) -> None:
    Path(f"{paths.subuid}.lock").write_bytes(text)
    with pytest.raises(ForeignError, match="remove .*subuid.lock"):
        with lockfile.locked(paths.subuid, wait=0.1):
            pass


def test_lckpwdf_is_honoured_and_held(paths: Paths) -> None:
    path = f"{paths.root}/etc/.pwd.lock"
    Path(path).touch()
    probe = (
        "import fcntl, sys\nhandle = open(sys.argv[1], 'w')\n"
        "try: fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: sys.exit(7)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", probe, path]
    with lockfile.locked(paths.subuid):
        assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 7
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        with pytest.raises(ForeignError, match=".pwd.lock"):
            with lockfile.locked(paths.subuid, wait=0.1):
                pass
        process.communicate(b"")
    converge(paths, "web")


def test_leftovers_of_a_killed_run_are_swept(paths: Paths) -> None:
    names = listing(paths)
    dead = _dead_pid()
    Path(f"{paths.subuid}.sandlot.{dead}").touch()
    Path(f"{paths.subgid}.lock").write_bytes(b"%d\0" % dead)
    Path(f"{paths.subuid}.sandlot.x").touch()
    assert converge(paths) == [
        f"{paths.subuid}: clean up after an interrupted run",
        f"{paths.subgid}: clean up after an interrupted run",
    ]
    assert listing(paths) == sorted([*names, "subuid.sandlot.x"])


def _add_one(root: str, number: int) -> None:
    paths = Paths(root)
    name = f"s{number}"
    ids = {name: IdRange(FIRST + number * SIZE)}
    for operation in idmap.operations(paths, idmap.observe(paths), ids):
        operation.apply()


def _foreign_edit(root: str, number: int) -> None:
    """What useradd does: both locks, read, append, replace."""
    for file in (f"{root}/etc/subuid", f"{root}/etc/subgid"):
        with lockfile.locked(file):
            old = Path(file).read_bytes()
            Path(f"{file}+").write_bytes(old + b"u%d:%d:65536\n" % (number, 100000 + SIZE * number))
            os.rename(f"{file}+", file)


@pytest.mark.parametrize("password_lock", [False, True])
def test_a_hundred_concurrent_edits_lose_no_line(paths: Paths, password_lock: bool) -> None:
    if password_lock:
        Path(f"{paths.root}/etc/.pwd.lock").touch()
    for file in (paths.subuid, paths.subgid):
        Path(f"{file}.lock").write_bytes(b"%d\0" % _dead_pid())
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=job, args=(paths.root, number))
        for number in range(50)
        for job in (_add_one, _foreign_edit)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert {job.exitcode for job in jobs} == {0}
    ours = {f"sandlot.s{n}:{FIRST + n * SIZE}:65536" for n in range(50)}
    users = {f"u{n}:{100000 + SIZE * n}:65536" for n in range(50)}
    for text in content(paths):
        lines = text.decode().splitlines()
        assert len(lines) == 100 and set(lines) == ours | users


def _edit_and_die_at(root: str, call: str, number: int) -> None:
    """Apply, and get SIGKILL at the given use of a system call's wrapper."""
    paths = Paths(root)
    operations = plan(paths, "web")
    real, count = getattr(os, call), 0

    def deadly(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, call, deadly)
    apply_all(operations)
    os._exit(0)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("call", ["link", "unlink", "rename", "fsync", "write", "open"])
def test_killed_anywhere_it_converges_and_leaves_nothing(
    paths: Paths, call: str, missing: bool
) -> None:
    if missing:
        os.unlink(paths.subuid)
    names, before = listing(paths), Path(paths.subgid).read_bytes()
    context = multiprocessing.get_context("fork")
    for number in range(1, 100):
        job = context.Process(target=_edit_and_die_at, args=(paths.root, call, number))
        job.start()
        job.join()
        converge(paths, "web")
        converge(paths, absent=("web",))
        assert listing(paths) == names and Path(paths.subgid).read_bytes() == before
        if job.exitcode == 0:
            break
    assert number > 1


def test_a_full_disk_is_explained_and_changes_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = plan(paths, "web")
    names = listing(paths)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SandlotError, match="cannot edit .*subuid: No space left on device"):
        apply_all(operations)
    assert content(paths) == (b"", b"") and listing(paths) == names


def test_fcntl_lock_is_released_afterwards(paths: Paths) -> None:
    path = Path(f"{paths.root}/etc/.pwd.lock")
    path.touch()
    converge(paths, "web")
    with open(path, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
