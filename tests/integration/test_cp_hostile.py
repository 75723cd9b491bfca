# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot cp with a tenant that attacks it: by links, races, special files, signals and names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, children, exit_code, name_of, receive, until
from sandlot import wire
from sandlot.errors import SandlotError
from sandlot.kernel import mounts
from sandlot.reach import files, trees

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

MIB = 1 << 20
TOKEN = "cafe0123"
SYS_PTRACE = 1 << 19
# Exchanges a directory and a link to another one, as fast as it can (renameat2(2)).
SWAP = """
import ctypes, os
os.chdir("/tmp/race")
while True:
    ctypes.CDLL(None).renameat2(-100, b"t/d", -100, b"link", 2)
"""


@pytest.fixture(scope="module")
def box(module_host: Host) -> Sandbox:
    image = str(module_host.python_image)
    return module_host.started("a", ["sleep", "1000000"], lower=image, tmpfs={"/tmp": "size=16m"})


def command(box: Sandbox, *words: str | Path, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "cp", "--errors-as", TOKEN, *map(str, words)],
        env=environment(box.host), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def cp(box: Sandbox, *words: str | Path, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    process = command(box, *words, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out, err


def refused(box: Sandbox, *words: str | Path, stdin: bytes = b"") -> str:
    """The message of a copy that fails."""
    code, _, err = cp(box, *words, stdin=stdin)
    assert code == 1, err
    return str(failure(err)["message"])


def failure(stderr: bytes) -> dict[str, str]:
    return dict(json.loads(stderr.decode().rpartition(f"\n{TOKEN} ")[2]))


def server_of(box: Sandbox) -> int:
    """The pid of the process that copies inside, on the host."""
    return int(
        until(lambda: next((p for p in children(box.init) if name_of(p) == "sandlot-files"), 0))
    )


@pytest.fixture
def waiting(box: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A copy of standard input, of which more is to come."""
    process = command(box, "-", "a:/root/waiting", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"begin")
    process.stdin.flush()
    until(lambda: box.exec(["cat", "/root/waiting"]).stdout == b"begin")
    try:
        yield process
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()


def test_links_lead_to_files_of_the_sandbox(box: Sandbox, tmp_path: Path) -> None:
    """Control: by a path on the host, the same links lead to the host's files."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    script = f"mkdir -p /root/l; cd /root/l; ln -s {secret} abs; ln -s {'../' * 40}{secret} rel"
    assert box.shell(script).code == 0
    for name in ("abs", "rel"):
        assert Path(box.paths.upper, "root/l", name).exists()
        missing = f"a:/root/l/{name}: No such file or directory"
        assert refused(box, f"a:/root/l/{name}", tmp_path / "out") == missing
        assert refused(box, "-", f"a:/root/l/{name}", stdin=b"x").startswith(f"a:/root/l/{name}: ")
    assert secret.read_text() == "of the host"
    # In a tree they stay links, and the next copy over them follows none.
    assert cp(box, "a:/root/l", tmp_path / "out")[0] == 0
    assert os.readlink(tmp_path / "out" / "abs") == str(secret)
    assert (
        box.shell("cd /root/l; rm abs rel; mkdir abs; echo evil > abs/x; echo evil > rel").code == 0
    )
    assert refused(box, "a:/root/l/.", tmp_path / "out") == f"{tmp_path}/out/abs: Not a directory"
    assert box.shell("cd /root/l; rm -r abs; echo evil > abs").code == 0
    assert cp(box, "a:/root/l/.", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "abs").read_text() == "evil\n"
    assert secret.read_text() == "of the host"


@pytest.mark.parametrize(
    "path",
    ["/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/exe", "/proc/self/fd/0"],
)
def test_links_of_the_kernel_are_not_followed(box: Sandbox, tmp_path: Path, path: str) -> None:
    """Control: a command follows them, but for those of init."""
    followed = box.shell(f"head -c 1 {path} </etc/passwd").code == 0
    assert followed != path.startswith("/proc/1/")
    assert refused(box, f"a:{path}", tmp_path / "out").startswith(f"a:{path}: ")
    assert box.exec(["ln", "-sf", path, "/root/magic"]).code == 0
    for words in (("a:/root/magic", tmp_path / "out"), ("/etc/hostname", "a:/root/magic")):
        assert refused(box, *words).startswith("a:/root/magic: ")
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_host_is_open_inside(box: Sandbox, waiting: subprocess.Popen[bytes]) -> None:
    """Control: init, of which the server is a copy, has more, such as its log."""
    server = server_of(box)
    found = {os.readlink(f"/proc/{server}/fd/{fd}") for fd in os.listdir(f"/proc/{server}/fd")}
    assert {name.partition(":")[0] for name in found} == {"socket", "pipe", "/root/waiting"}
    assert any(os.path.samestat(os.stat(box.paths.logs[0]), state) for state in opened(box.init))
    assert os.readlink(f"/proc/{server}/cwd") == os.readlink(f"/proc/{server}/root")


def opened(pid: int) -> Iterator[os.stat_result]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.stat(f"/proc/{pid}/fd/{fd}")


@pytest.fixture
def racing(box: Sandbox) -> Iterator[None]:
    """/tmp/race/t/d is a directory with a file, and a link to the victim's, by turns."""
    script = "mkdir -p t/d v; echo mine > t/d/f; echo victim > v/f; ln -s /tmp/race/v link"
    assert box.shell(f"mkdir /tmp/race; cd /tmp/race; {script}").code == 0
    with box.session(["/usr/bin/python3", "-ISc", SWAP], [0, 1, 2]) as connection:
        assert "pid" in (receive(connection)[0] or {})
        try:
            yield
        finally:
            wire.send(connection, {"op": "signal", "signal": int(signal.SIGKILL)})
            exit_code(connection)
    assert box.exec(["rm", "-r", "/tmp/race"]).code == 0


@pytest.mark.usefixtures("racing")
def test_a_directory_that_becomes_a_link_is_not_followed(box: Sandbox, tmp_path: Path) -> None:
    """Control: by whole paths, a walk reads what the link leads to."""
    seen = set()
    for number in range(100):
        out = tmp_path / str(number)
        with files.opened(box.host.paths, "a") as server:
            copy = trees.CopyOut("a", server, str, keep_owner=False)
            try:
                copy.run("/tmp/race/t", str(out))
                seen.add("link" if (out / "d").is_symlink() else (out / "d" / "f").read_text())
            except SandlotError as error:
                assert "changed while it was copied" in error.message
                seen.add("changed")
    assert "changed" in seen and "victim\n" not in seen
    with files.opened(box.host.paths, "a") as naive:
        until(lambda: _content(naive, b"/tmp/race/t/d/f") == b"victim\n")


@pytest.mark.usefixtures("racing")
def test_nor_is_one_that_is_written_to(box: Sandbox, tmp_path: Path) -> None:
    """Control: by whole paths, a walk overwrites what the link leads to."""
    (tmp_path / "t" / "d").mkdir(parents=True)
    (tmp_path / "t" / "d" / "f").write_text("new\n")
    refusals = 0
    for _ in range(100):
        with files.opened(box.host.paths, "a") as server:
            copy = trees.CopyIn("a", server, str, keep_owner=False)
            try:
                copy.run(f"{tmp_path}/t/.", "/tmp/race/t")
            except SandlotError as error:
                assert "symbolic link" in error.message or "Not a directory" in error.message
                refusals += 1
    assert 0 < refusals < 100
    with files.opened(box.host.paths, "a") as naive, open(tmp_path / "t" / "d" / "f") as new:
        assert _content(naive, b"/tmp/race/v/f") == b"victim\n"
        until(lambda: _written(naive, new.fileno(), b"/tmp/race/t/d/f", b"/tmp/race/v/f"))


def _written(server: files.Files, source: int, name: bytes, victim: bytes) -> bool:
    server.put(name, source, mode=0o644, mtime=0)
    return _content(server, victim) == b"new\n"


def _content(server: files.Files, name: bytes) -> bytes:
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(files.FileError):
            server.get(name, writer, sparse=False)
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return stream.read()


def test_files_that_are_no_files_hold_up_nobody(box: Sandbox, tmp_path: Path) -> None:
    """Control: a program waits for the other end of such a FIFO."""
    assert box.exec(["mkfifo", "/root/fifo"]).code == 0
    assert box.exec(["timeout", "1", "cat", "/root/fifo"]).code == 128 + 15
    for path in ("/root/fifo", "/dev/zero", "/dev/null"):
        problem = f"a:{path}: it is neither a file nor a directory"
        assert refused(box, f"a:{path}", tmp_path / "out") == problem
        assert refused(box, f"a:{path}", "-") == problem
        assert refused(box, "-", f"a:{path}", stdin=b"x") == problem
    assert refused(box, "/dev/zero", "a:/root/zero") == "/dev/zero: it is a device"
    assert refused(box, "a:/etc/passwd", "/dev/null") == "/dev/null: it is a device"
    assert refused(box, "a:/etc", "-") == "a:/etc: Is a directory"


def test_hard_links_to_other_files_are_replaced(box: Sandbox, tmp_path: Path) -> None:
    """Control: by its whole path, a file is written through its other names, as by cp."""
    script = "echo victim > /root/victim; mkdir /root/h; ln /root/victim /root/h/f"
    assert box.shell(script).code == 0
    (tmp_path / "f").write_text("new")
    assert cp(box, tmp_path / "f", "a:/root/h")[0] == 0
    assert box.exec(["cat", "/root/victim", "/root/h/f"]).stdout == b"victim\nnew"
    assert box.shell("ln -f /root/victim /root/h/f").code == 0
    assert cp(box, tmp_path / "f", "a:/root/h/f")[0] == 0
    assert box.exec(["cat", "/root/victim"]).stdout == b"new"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of the host with room for a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("sandlot-test", str(place), "tmpfs", 0, "size=1m")
    try:
        yield place
    finally:
        mounts.umount(str(place))


def test_more_than_there_is_room_for(box: Sandbox, small: Path, tmp_path: Path) -> None:
    """Holes take no room, on either side; what has none leaves nothing on the host."""
    script = (
        "truncate -s 10G /tmp/hole; echo end >> /tmp/hole; head -c 3000000 /dev/urandom > /tmp/big"
    )
    assert box.shell(script).code == 0
    assert cp(box, "a:/tmp/hole", small / "hole")[0] == 0
    assert (small / "hole").stat().st_size == 10 * 1024 * MIB + 4
    assert refused(box, "a:/tmp/big", small / "big") == f"{small}/big: No space left on device"
    assert os.listdir(small) == ["hole"]
    assert cp(box, small / "hole", "a:/tmp/back")[0] == 0
    assert box.exec(["tail", "-c", "4", "/tmp/back"]).stdout == b"end\n"
    full = "a:/tmp/full: No space left on device"
    assert refused(box, "-", "a:/tmp/full", stdin=bytes(17 * MIB)) == full
    (tmp_path / "full").write_bytes(os.urandom(17 * MIB))
    assert refused(box, tmp_path / "full", "a:/tmp/full") == full
    assert box.exec(["rm", "/tmp/full"]).code == 0


def test_a_link_in_the_destination_is_no_way_out(box: Sandbox, tmp_path: Path) -> None:
    """An earlier copy has made it. Control: named by the caller, it leads where it says."""
    script = "mkdir -p /root/one /root/two/x; ln -s {} /root/one/x; echo evil > /root/two/x/passwd"
    etc, out = tmp_path / "etc", tmp_path / "out"
    for directory in (etc, out):
        directory.mkdir()
    assert box.shell(script.format(etc)).code == 0
    assert cp(box, "a:/root/one/.", out)[0] == 0
    assert refused(box, "a:/root/two/x", out) == f"{out}/x: Not a directory"
    assert os.listdir(etc) == []
    assert cp(box, "a:/root/two/x/.", out / "x")[0] == 0
    assert os.listdir(etc) == ["passwd"]


def test_a_time_of_any_year(box: Sandbox, tmp_path: Path) -> None:
    """A tmpfs keeps it, and it has more than 64 bits of nanoseconds."""
    script = "mkdir /tmp/old; for y in -9 9; do touch -d @${y}9999999999999 /tmp/old/$y; done"
    assert box.shell(script).code == 0
    years = box.shell("stat -c %Y /tmp/old/9").stdout
    assert int(years) * 10**9 > 1 << 63
    assert cp(box, "a:/tmp/old", tmp_path / "out")[0] == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["-9", "9"]


def test_names_control_no_terminal(box: Sandbox, tmp_path: Path) -> None:
    """Control: what the sandbox shows has the escape sequence."""
    assert box.shell("mkdir /root/n; mkfifo /root/n/\"$(printf 'a\\n\\033[31mb')\"").code == 0
    assert b"\x1b[31m" in box.shell("echo /root/n/*").stdout
    code, _, err = cp(box, "a:/root/n", tmp_path / "out")
    assert (code, err) == (0, b"sandlot: a:/root/n/a\\n\\x1b[31mb is left out: it is a FIFO\n")


def test_the_kernel_is_left_out(box: Sandbox, tmp_path: Path) -> None:
    code, _, err = cp(box, "a:/", tmp_path / "out")
    assert code == 0
    lines = err.decode().splitlines()
    assert [line for line in lines if "/dev/" not in line and "/root/" not in line] == [
        "sandlot: a:/proc is left out: it is the kernel's",
        "sandlot: a:/sys is left out: it is the kernel's",
    ]
    assert "sandlot: a:/dev/zero is left out: it is a device" in lines
    assert (tmp_path / "out" / "etc" / "passwd").exists()
    assert not (tmp_path / "out" / "proc").exists()


def test_the_sandbox_looks_into_no_copy(sandbox_host: Host) -> None:
    """With the capability to trace. Control: it looks into a process of its own."""
    image = str(sandbox_host.python_image)
    box = sandbox_host.started("b", ["sleep", "1000000"], lower=image, capabilities=SYS_PTRACE)
    process = command(box, "-", "b:/root/waiting", stdin=subprocess.PIPE)
    server = server_of(box)
    inside = Path(f"/proc/{server}/status").read_text().split("NSpid:")[1].split("\n")[0].split()
    script = "import os, sys\nfor p in sys.argv[1:]:\n try: os.close(os.open(p, 2)); print(0)\n"
    script += " except OSError as e: print(e.errno)"
    paths = [f"/proc/{pid}/mem" for pid in (inside[-1], box.status()["pid"])]
    assert box.python(script, *paths).stdout.split() == [b"%d" % errno.EACCES, b"0"]
    assert process.communicate(b"x", timeout=20)[1] == b""


def test_a_killed_copy_is_an_error(box: Sandbox, waiting: subprocess.Popen[bytes]) -> None:
    server = server_of(box)
    assert box.shell("kill -9 $(grep -l sandlot-files /proc/*/comm | cut -d/ -f3)").code == 0
    waiting.wait(20)
    out, err = waiting.communicate()
    assert (waiting.returncode, out) == (1, b"")
    assert failure(err)["kind"] == "failed"
    ended = "a: the process that copies inside has ended with status 137"
    assert failure(err)["message"] == ended
    assert server not in children(box.init)


def test_a_sandbox_that_ends_is_told_from_that(sandbox_host: Host) -> None:
    box = sandbox_host.started("c", ["sleep", "1000000"])
    process = command(box, "-", "c:/root/x", stdin=subprocess.PIPE)
    server_of(box)
    os.kill(box.init, signal.SIGKILL)
    process.wait(20)
    err = process.communicate()[1]
    assert (process.returncode, failure(err)["kind"]) == (1, "vanished")
    assert failure(cp(box, "c:/etc/passwd", "-")[2])["kind"] == "stopped"
    assert failure(cp(box, "nobody:/etc/passwd", "-")[2])["kind"] == "missing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_copy_leaves_no_half_file(
    box: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    assert box.shell("[ -e /root/large ] || head -c 300000000 /dev/zero > /root/large").code == 0
    (tmp_path / "out").mkdir()
    process = command(box, "a:/root/large", tmp_path / "out")
    until(lambda: os.listdir(tmp_path / "out"))
    # So that it can't send all before the signal.
    server = server_of(box)
    os.kill(server, signal.SIGSTOP)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert os.listdir(tmp_path / "out") == []
    os.kill(server, signal.SIGCONT)
    until(lambda: server not in children(box.init))
