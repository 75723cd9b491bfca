# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot cp: files and trees into a sandbox and out of it, through the command itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox
from sandlot.reach import trees

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

BYTES = bytes(range(256)) * 1000
# 2001-09-09T01:46:40Z, and a part of a second.
TIME = 1_000_000_000_123_456_789


@pytest.fixture(scope="module")
def box(module_host: Host) -> Sandbox:
    return module_host.started("a", ["sleep", "1000000"], tmpfs={"/tmp": "size=16m"})


def cp(box: Sandbox, *words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "cp", *map(str, words)],
        env=environment(box.host), input=stdin, capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def copied(box: Sandbox, *words: str | Path, stdin: bytes = b"") -> bytes:
    """Copy; standard output."""
    done = cp(box, *words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_bytes_go_in_and_out(box: Sandbox) -> None:
    copied(box, "-", "a:/root/x", stdin=BYTES)
    assert copied(box, "a:/root/x", "-") == BYTES
    assert box.exec(["stat", "-c", "%a %u %g", "/root/x"]).stdout == b"644 0 0\n"


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("file", "new", "new"),
        ("file", "old", "old"),
        ("file", "dir", "dir/file"),
        ("file", "dir/", "dir/file"),
        ("tree", "new", "new/inner/file"),
        ("tree", "dir", "dir/tree/inner/file"),
        ("tree/.", "dir", "dir/inner/file"),
        ("tree/", "dir/tree", "dir/tree/tree/inner/file"),
        ("tree/inner/..", "dir", "dir/inner/file"),
        ("link", "new", "new"),
        ("treelink", "dir", "dir/treelink/inner/file"),
    ],
)
@pytest.mark.parametrize("inward", [True, False], ids=["in", "out"])
def test_places_are_those_of_docker(
    box: Sandbox, tmp_path: Path, source: str, target: str, made: str, *, inward: bool
) -> None:
    script = (
        "mkdir -p src/tree/inner dst/dir/tree && echo content > src/file && echo old > dst/old &&"
        " echo content > src/tree/inner/file && ln -s file src/link && ln -s tree src/treelink"
    )
    inside = f"/root/{tmp_path.name}"
    box.exec(["mkdir", inside])
    assert box.shell(script, cwd=inside).code == 0
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    if inward:
        copied(box, f"{tmp_path}/src/{source}", f"a:{inside}/dst/{target}")
        assert box.exec(["cat", f"{inside}/dst/{made}"]).stdout == b"content\n"
        assert box.exec(["find", f"{inside}/dst", "-type", "l"]).stdout == b""
    else:
        # A path inside begins at the root, with a slash or without.
        copied(box, f"a:{inside[1:]}/src/{source}", f"{tmp_path}/dst/{target}")
        assert (tmp_path / "dst" / made).read_text() == "content\n"
        assert not [path for path in (tmp_path / "dst").rglob("*") if path.is_symlink()]


SCRIPT = (
    "mkdir -p t/d/empty t/bin && echo a > t/d/a && printf '' > t/d/none && chmod 604 t/d/a &&"
    " chmod 1777 t/d/empty && ln -s ../nowhere t/d/link && ln -s /etc/passwd t/absolute &&"
    " echo s > t/bin/suid && chmod 6755 t/bin/suid && chmod 2750 t/bin &&"
    " truncate -s 5M t/sparse && echo end >> t/sparse && mkfifo t/fifo"
)


def listing(root: Path) -> dict[str, tuple[int, int, object]]:
    """Mode, time and content of all below a directory, itself included."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        state = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (state.st_mode, state.st_mtime_ns, content)
    return found


def test_trees_come_back_as_they_went(box: Sandbox, tmp_path: Path) -> None:
    subprocess.run(["sh", "-c", SCRIPT], cwd=tmp_path, check=True)
    strange = tmp_path / "t" / os.fsdecode(b"d/\xff\n\x1b[31m")
    strange.write_text("strange")
    for path in (tmp_path / "t").rglob("*"):
        os.utime(path, ns=(TIME, TIME), follow_symlinks=False)
    os.utime(tmp_path / "t", ns=(TIME, TIME))
    done = cp(box, tmp_path / "t", "a:/tmp/came")
    assert done.returncode == 0
    assert done.stderr == f"sandlot: {tmp_path}/t/fifo is left out: it is a FIFO\n".encode()
    (tmp_path / "t" / "fifo").unlink()
    os.utime(tmp_path / "t", ns=(TIME, TIME))
    assert box.shell("stat -c '%a %u %y' /tmp/came/bin/suid").stdout.split()[:2] == [b"6755", b"0"]
    assert box.exec(["readlink", "/tmp/came/absolute"]).stdout == b"/etc/passwd\n"
    assert box.exec(["mkfifo", "/tmp/came/fifo"]).code == 0
    done = cp(box, "a:/tmp/came", tmp_path / "back")
    assert (done.returncode, done.stderr) == (
        0,
        b"sandlot: a:/tmp/came/fifo is left out: it is a FIFO\n",
    )
    came, back = listing(tmp_path / "t"), listing(tmp_path / "back")
    # Rights of the file's owner or group stay inside; and the FIFO has touched its directory.
    assert back.pop("bin/suid")[0] == 0o100755 and came.pop("bin/suid")[0] == 0o106755
    assert back.pop("bin")[0] == 0o040750 and came.pop("bin")[0] == 0o042750
    assert (back.pop(".")[0], came.pop(".")[0]) == (0o040755, 0o040755)
    assert back == came
    assert (tmp_path / "back" / "sparse").stat().st_blocks * 512 < 1 << 16
    assert int(box.exec(["stat", "-c", "%b", "/tmp/came/sparse"]).stdout) * 512 < 1 << 16


def test_a_tree_goes_over_another(box: Sandbox, tmp_path: Path) -> None:
    """Directories keep their attributes, files are written anew, links are not followed."""
    for name in ("new", "old"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / "f").write_text(name)
    (tmp_path / "old" / "d").chmod(0o700)
    (tmp_path / "old" / "kept").write_text("kept")
    (tmp_path / "new" / "link").write_text("a file")
    (tmp_path / "victim").write_text("victim")
    (tmp_path / "old" / "link").symlink_to(tmp_path / "victim")
    copied(box, tmp_path / "old", "a:/tmp/over")
    box.shell(f"rm /tmp/over/link; echo victim > {'/tmp/victim'}; ln -s /tmp/victim /tmp/over/link")
    copied(box, f"{tmp_path}/new/.", "a:/tmp/over")
    seen = box.shell("cat d/f kept link /tmp/victim; stat -c %a d", cwd="/tmp/over").stdout
    assert seen == b"newkepta filevictim\n700\n"
    copied(box, "a:/tmp/over/.", tmp_path / "old")
    assert (tmp_path / "old" / "d" / "f").read_text() == "new"
    assert (tmp_path / "old" / "link").read_text() == "a file"
    assert (tmp_path / "victim").read_text() == "victim"


def test_parts_of_files(box: Sandbox) -> None:
    for start in range(0, len(BYTES), 100_000):
        part = ("--offset", str(start))
        copied(box, *part, "-", "a:/root/parts", stdin=BYTES[start : start + 100_000])
    assert copied(box, "a:/root/parts", "-") == BYTES
    # A part that is sent again takes the place of what was sent.
    copied(box, "--offset", "100000", "-", "a:/root/parts", stdin=b"end")
    assert copied(box, "a:/root/parts", "-") == BYTES[:100_000] + b"end"
    for start, length in ((0, 0), (5, 10), (99_999, 100), (200_000, 5)):
        part = ("--offset", str(start), "--length", str(length))
        assert (
            copied(box, *part, "a:/root/parts", "-")
            == (BYTES[:100_000] + b"end")[start : start + length]
        )
    copied(box, "-", "a:/root/none")
    for words in ([], ["--length", "0"], ["--offset", "5", "--length", "5"]):
        assert copied(box, *words, "a:/root/none", "-") == b""
    assert copied(box, "--offset", str(1 << 61), "a:/root/none", "-") == b""
    done = cp(box, "--offset", "200000", "-", "a:/root/parts", stdin=b"x")
    assert done.returncode == 1
    assert done.stderr.startswith(b"sandlot: a:/root/parts: the file is shorter than the offset\n")


def test_files_without_a_size(box: Sandbox, tmp_path: Path) -> None:
    """Files of procfs claim no bytes, those of sysfs a page."""
    for path in ("/proc/self/status", "/proc/sys/kernel/hostname", "/sys/class/net/lo/mtu"):
        copied(box, f"a:{path}", tmp_path / "it")
        assert (tmp_path / "it").stat().st_size > 1
        assert b"\0" not in (tmp_path / "it").read_bytes()
    assert copied(box, "--length", "5", "a:/proc/self/status", "-") == b"Name:"


def test_owners(sandbox_host: Host, tmp_path: Path) -> None:
    rights = sum(1 << number for number in (0, 1, 3, 4, 6, 7))  # those of the profile daemon
    box = sandbox_host.started("b", ["sleep", "1000000"], capabilities=rights)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "f").write_text("x")
    os.chown(tmp_path / "t" / "f", 33, 44)
    stat = ["stat", "-c", "%u %g", "/root/t/f"]
    for words, owner in (([], "0 0"), (["-a"], "33 44"), (["-a"], "33 44")):
        copied(box, *words, tmp_path / "t", "b:/root")
        assert box.exec(stat).stdout.decode() == f"{owner}\n"
    copied(box, "b:/root/t", tmp_path / "mine")
    copied(box, "-a", "b:/root/t", tmp_path / "theirs")
    assert (tmp_path / "mine" / "f").stat().st_uid == os.getuid()
    state = (tmp_path / "theirs" / "f").stat()
    assert (state.st_uid, state.st_gid) == (33, 44)
    box.exec(["chmod", "777", "/root"])
    copied(box, "-u", "web", "-", "b:/root/web", stdin=b"x")
    copied(box, "-u", "0:44", "-", "b:/root/group", stdin=b"x")
    seen = box.exec(["stat", "-c", "%u %g", "/root/web", "/root/group"]).stdout
    assert seen == b"33 33\n0 44\n"
    os.chown(tmp_path / "t" / "f", 70000, 0)
    done = cp(box, "-a", tmp_path / "t", "b:/root")
    assert done.returncode == 1
    assert f"{tmp_path}/t/f: its owner or group 70000 is no id of a sandbox".encode() in done.stderr


def test_a_mount_hides_what_is_below(box: Sandbox, tmp_path: Path) -> None:
    """Control: the layer has what the mount hides."""
    for words in (["-", "a:/tmp/above"], ["-", "a:/root/beside"]):
        copied(box, *words, stdin=b"x")
    assert not Path(box.paths.upper, "tmp", "above").exists()
    assert Path(box.paths.upper, "root", "beside").read_text() == "x"
    copied(box, "a:/tmp/above", tmp_path)
    assert (tmp_path / "above").read_text() == "x"


def test_the_user_of_the_sandbox(sandbox_host: Host) -> None:
    box = sandbox_host.started("u", ["sleep", "1000000"], user="33:44", tmpfs={"/tmp": "size=1m"})
    copied(box, "-", "u:/tmp/x", stdin=b"x")
    assert box.exec(["stat", "-c", "%u %g", "/tmp/x"]).stdout == b"33 44\n"
    assert cp(box, "-", "u:/etc/x", stdin=b"x").returncode == 1


@pytest.mark.parametrize(("target", "message"), [
    ("/dev/full", b"sandlot: the output can't be written: No space left on device\n"), ("pipe", b"")
])  # fmt: skip
def test_output_that_nobody_takes(box: Sandbox, target: str, message: bytes) -> None:
    copied(box, "-", "a:/root/x", stdin=BYTES)
    if target == "pipe":
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open(target, os.O_WRONLY)
    try:
        done = subprocess.run(
            [*COMMAND, "cp", "a:/root/x", "-"], env=environment(box.host),
            stdout=output, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(output)
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(("levels", "code"), [(trees.MOST_LEVELS, 0), (trees.MOST_LEVELS + 1, 1)])
def test_depth(box: Sandbox, tmp_path: Path, levels: int, code: int) -> None:
    """The top of a tree is one of its levels."""
    script = f"n=0; while [ $n -lt {levels - 1} ]; do mkdir d; cd d; n=$((n+1)); done; echo x > f"
    os.mkdir(tmp_path / "deep")
    subprocess.run(["sh", "-c", script], cwd=tmp_path / "deep", check=True)
    assert (
        box.shell(f"rm -rf /root/deep /root/back; mkdir /root/deep; cd /root/deep; {script}").code
        == 0
    )
    for done in (
        cp(box, tmp_path / "deep", "a:/root/back"),
        cp(box, "a:/root/deep", tmp_path / "out"),
    ):
        assert done.returncode == code
        problem = b": more than 256 directories in each other\n" in done.stderr
        assert problem == bool(code)
    found = subprocess.run(["find", tmp_path, "-name", "f"], capture_output=True, check=True).stdout
    assert len(found.splitlines()) == 2 - code
