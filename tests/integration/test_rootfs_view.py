# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What a sandbox sees of files, images that try to reach the host, and what init opens."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

import pytest
from sandboxes import Host, Sandbox, exit_code, status_fields, until, zygote_of
from sandlot.errors import LaunchError
from sandlot.kernel import mounts
from sandlot.reach import files
from sandlot.spec import confinement

SLEEP = ["sleep", "100000"]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("untouched")
    (tmp_path / "directory").mkdir()
    return tmp_path


def untouched(canary: Path) -> bool:
    names = sorted(os.listdir(canary)), os.listdir(canary / "directory")
    return names == (["directory", "file"], []) and (canary / "file").read_text() == "untouched"


def planted(box: Sandbox, name: str) -> Path:
    """A place in the sandbox's layer for something in the way of what is mounted."""
    path = Path(box.paths.upper, name)
    if path.parent != Path(box.paths.upper):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.chown(path.parent, box.config["ids"]["uid"], box.config["ids"]["gid"])
    return path


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_symlink_in_place_of_a_tree_of_the_kernel(
    sandbox_host: Host, canary: Path, name: str, absolute: bool
) -> None:
    box = sandbox_host.created("a", SLEEP, tmpfs={"/data": ""})
    target = str(canary / "directory")
    planted(box, name).symlink_to(target if absolute else "../" * 30 + target)
    with pytest.raises(LaunchError, match="symlink|symbolic"):
        box.start()
    assert untouched(canary)
    assert box.running() is None


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize(("name", "mounted"), [("etc", "/hosts"), ("data/deep", "")])
def test_symlink_on_the_way_to_a_mount_point(
    sandbox_host: Host, canary: Path, name: str, mounted: str, absolute: bool
) -> None:
    """It is followed inside, where its target does not exist yet."""
    box = sandbox_host.created("a", SLEEP, tmpfs={"/data/deep": "", "/tmp": "size=1m"})
    target = str(canary / "directory")
    planted(box, name).symlink_to(target if absolute else "../" * 30 + target)
    planted(box, "tmp").symlink_to("var/link")
    planted(box, "var/link").symlink_to("../deep/er")
    (canary / "directory").rmdir()
    box.start()
    assert not os.path.lexists(target)
    (canary / "directory").mkdir()
    inside = re.sub("^/tmp/", "/deep/er/", target) + mounted
    assert {inside, "/deep/er"} <= set(mount_options(box))
    assert untouched(canary)


def test_symlinks_that_lead_in_circles(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP, tmpfs={"/data": ""})
    planted(box, "data").symlink_to("atad")
    planted(box, "atad").symlink_to("data")
    with pytest.raises(LaunchError, match="/data in the image leads to no directory"):
        box.start()


@pytest.mark.parametrize("target", ["/", "dev", "/proc", "/sys/fs"])
@pytest.mark.parametrize("name", ["tmp", "etc"])
def test_no_link_leads_a_mount_to_a_tree_of_the_kernel(
    sandbox_host: Host, name: str, target: str
) -> None:
    """There, an image could put files of its own in the place of those that a start opens."""
    box = sandbox_host.created("a", SLEEP)
    planted(box, name).symlink_to(target)
    planted(box, "dev/null").symlink_to("/proc/self/fd/2")
    place = "/" + target.strip("/")
    with pytest.raises(LaunchError, match=f"^/{name} in the image leads to {place}"):
        box.start()
    planted(box, name).unlink()
    planted(box, name).symlink_to("data")
    box.start()
    assert box.shell("echo x > /dev/null").code == 0


def test_var_run_of_a_published_image(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP, tmpfs={"/var/run": "size=1m", "/var/run/app": ""})
    planted(box, "var/run").symlink_to("../run")
    box.start()
    found = box.shell("echo x > /run/app/file; cat /var/run/app/file; df -m /run | tail -n 1")
    assert found.stdout.startswith(b"x\n") and found.stdout.split()[2] == b"1"


def test_files_that_the_image_has_in_tmp(sandbox_host: Host) -> None:
    """They are there, changes of them stay in memory; an entry of tmpfs decides otherwise."""
    boxes = {
        name: sandbox_host.created(name, SLEEP, tmpfs=tmpfs, read_only=name == "a")
        for name, tmpfs in {
            "a": {"/cache": "noexec,tmpcopyup,mode=777,uid=7"},
            "b": {"/tmp": "size=1m", "/cache": "size=1m,noexec"},
        }.items()
    }
    script = "ls /tmp /cache; /tmp/sub/start; echo x > /tmp/sub/start; rm /cache/kept; ls /cache"
    for box in boxes.values():
        for path in ("tmp/sub/start", "cache/kept"):
            planted(box, path).write_text("#!/bin/sh\nstat -c '%n %a %u' /tmp /cache\n")
            os.chmod(planted(box, path), 0o755)
        box.start()
    for _ in range(2):
        found = boxes["a"].shell(script).stdout.decode()
        assert found == "/cache:\nkept\n\n/tmp:\nsub\n/tmp 1777 0\n/cache 777 7\n"
        assert "noexec" in mount_options(boxes["a"])["/cache"]
        boxes["a"].stop()
        boxes["a"].start()
    assert boxes["b"].shell("ls -A /tmp /cache").stdout == b"/cache:\n\n/tmp:\n"
    assert planted(boxes["a"], "cache/kept").exists()


@pytest.mark.parametrize("user", ["app", "app:staff", "1000", "1000:50"])
def test_user_files_behind_links(sandbox_host: Host, user: str) -> None:
    """As images of Nix have them; the lines may end as those of another system do."""
    box = sandbox_host.created("a", SLEEP, user=user, login=["HOME", "USER", "LOGNAME", "SHELL"])
    planted(box, "etc/passwd").symlink_to("../usr/share/passwd")
    planted(box, "etc/group").symlink_to("/usr/share/group")
    planted(box, "usr/share/passwd").write_text("app:x:1000:50::/home/app:/bin/ash\r\n")
    planted(box, "usr/share/group").write_text("staff:x:50:\r\nmore:x:60:x,app\r\n")
    box.start()
    found = box.shell("id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL").stdout
    groups = b"50" if ":" in user else b"50 60"
    assert found == b"1000\n50\n%s\n/home/app app app /bin/ash\n" % groups


@pytest.mark.parametrize("kind", ["loop", "outside", "directory"])
def test_ids_need_no_user_files(sandbox_host: Host, canary: Path, kind: str) -> None:
    """The control is a name, which can't be looked up."""
    box = sandbox_host.created("a", SLEEP, user="7:8", login=["HOME"])
    for name in ("passwd", "group"):
        path = planted(box, f"etc/{name}")
        if kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(name if kind == "loop" else "/proc/1/root/etc/passwd")
    box.start()
    assert box.shell("id -u; id -g; echo $HOME").stdout == b"7\n8\n/\n"
    box.stop()
    box.write(user="root")
    with pytest.raises(LaunchError):
        box.start()


@pytest.mark.parametrize("kind", ["symlink", "relative", "fifo", "device", "file", "dangling"])
@pytest.mark.parametrize("name", ["hosts", "resolv.conf", "hostname"])
def test_something_in_place_of_a_host_made_file(
    sandbox_host: Host, canary: Path, name: str, kind: str
) -> None:
    source = canary.parent / f"{name}-{os.getpid()}"
    source.write_text("made by the host\n")
    box = sandbox_host.created("a", SLEEP, files={f"/etc/{name}": str(source)})
    path = planted(box, f"etc/{name}")
    if kind in ("symlink", "relative", "dangling"):
        target = str(canary / ("file" if kind != "dangling" else "made-by-mistake"))
        path.symlink_to(target if kind != "relative" else "../" * 30 + target)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 3))
    else:
        path.write_text("of the image")
    box.start()
    assert box.exec(["cat", f"/etc/{name}"]).stdout == b"made by the host\n"
    assert box.shell(f"echo x > /etc/{name}").code != 0
    assert box.shell(f"rm /etc/{name}").code != 0
    assert untouched(canary)
    assert source.read_text() == "made by the host\n"
    source.unlink()


def test_directory_in_place_of_a_host_made_file(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP)
    planted(box, "etc/hosts").mkdir()
    with pytest.raises(LaunchError, match="directory"):
        box.start()


@pytest.mark.parametrize("kind", ["file", "fifo", "device"])
def test_no_directory_where_one_is_needed(sandbox_host: Host, kind: str) -> None:
    box = sandbox_host.created("a", SLEEP)
    path = planted(box, "dev")
    if kind == "file":
        path.write_text("")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o60600, os.makedev(7, 0))
    with pytest.raises(LaunchError):
        box.start()


def test_missing_directories_are_made(sandbox_host: Host) -> None:
    box = sandbox_host.created("a", SLEEP, tmpfs={"/run/app": "mode=700"}, cwd="/srv/app")
    for name in ("dev", "proc", "sys", "tmp"):
        # An overlay's mark for "not there".
        os.mknod(planted(box, name), 0o20000, os.makedev(0, 0))
    box.start()
    assert box.shell("ls /dev/null /proc/1 /sys/class /tmp").code == 0
    assert box.exec(["pwd"]).stdout == b"/srv/app\n"


def test_dev_is_private_and_small(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    names = box.shell("ls /dev").stdout.split()
    assert sorted(names) == sorted(
        b"fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )
    root = Path(f"/proc/{box.init}/root/dev")
    numbers = {name: os.stat(root / name).st_rdev for name in ("null", "zero", "full", "urandom")}
    assert numbers == {name: os.stat(f"/dev/{name}").st_rdev for name in numbers}
    assert (
        not (box.shell("ls /dev/pts").stdout.split()) or b"ptmx" in box.shell("ls /dev/pts").stdout
    )
    for command in (
        "mknod /dev/x c 1 3",
        "mknod /tmp/x b 7 0",
        "chmod 777 /dev/null",
        "rm /dev/null",
    ):
        assert box.shell(command).code != 0, command


TOUCH = """
import fcntl, os, sys
devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
for path in (*devices, "/usr/bin/python3"):
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.utime(path)
os.utime("/dev/tty")
for path in ("/dev", "/sys/firmware"):
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
sys.stdin.read()
"""


def test_device_nodes_and_files_of_the_image_are_no_shared_inodes(sandbox_host: Host) -> None:
    """Locks and times show nowhere else; the control is a second lock in the same sandbox.

    So it is with directories of its own over the kernel's.
    """
    boxes = [sandbox_host.started(n, SLEEP, lower=sandbox_host.python_image) for n in ("a", "b")]
    before = {name: os.stat(f"/dev/{name}") for name in ("null", "zero", "full", "tty")}
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as out:
        command = ["/usr/bin/python3", "-ISc", TOUCH]
        with boxes[0].session(command, [reader, out.fileno(), out.fileno()]) as session:
            until(lambda: os.pread(out.fileno(), 99, 0) == b"locked\n", what="locks are held")
            assert b"BlockingIOError" in boxes[0].python(TOUCH).stderr
            assert boxes[1].python(TOUCH).stdout == b"locked\n"
            with open("/dev/null") as null:
                fcntl.flock(null, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(writer)
            assert exit_code(session) == 0
    os.close(reader)
    after = {name: os.stat(f"/dev/{name}") for name in before}
    assert [each.st_mtime_ns for each in after.values()] == [
        each.st_mtime_ns for each in before.values()
    ]


def mount_options(box: Sandbox) -> dict[str, set[str]]:
    """Options by mount point; the last mount on a point counts."""
    lines = Path(f"/proc/{box.workload}/mountinfo").read_text().splitlines()
    return {line.split()[4]: set(line.split()[5].split(",")) for line in lines}


def test_mounts_carry_the_safe_flags(sandbox_host: Host) -> None:
    tmpfs = {"/cache": "size=1m,noexec", "/work": "mode=700,exec,size=2m"}
    box = sandbox_host.started("a", SLEEP, tmpfs=tmpfs)
    found = mount_options(box)
    assert {"nosuid", "nodev"} <= found["/"]
    safe = {"nosuid", "nodev", "noexec"}
    for path in ("/proc", "/dev/shm", "/dev/mqueue", "/cache"):
        assert safe <= found[path], path
    for path in ("/sys", "/proc/sys", "/proc/irq", "/etc/hosts"):
        assert {*safe, "ro"} <= found[path], path
    assert "noexec" not in found["/work"]
    assert b"1.0M" in box.shell("df -h /cache").stdout


def test_read_only_root(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, read_only=True)
    assert box.shell("echo x > /file").code != 0
    assert box.shell("echo x > /tmp/file && cat /tmp/file").stdout == b"x\n"


def test_layer_persists_and_the_image_stays(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, capabilities=confinement.mask(["CHOWN"]))
    other = sandbox_host.started("b", SLEEP)
    assert box.shell("echo mine > /etc/own; rm /etc/group; chown 33:33 /root").code == 0
    assert other.shell("test ! -e /etc/own && test -e /etc/group").code == 0
    box.stop()
    box.start()
    assert box.shell("cat /etc/own; stat -c %u:%g /root /etc/own").stdout == b"mine\n33:33\n0:0\n"
    assert (sandbox_host.image / "etc/group").exists()
    owner = os.stat(Path(box.paths.upper, "etc/own")).st_uid
    assert owner == box.config["ids"]["uid"]


def test_ownership_is_mapped_to_the_range_of_the_sandbox(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    assert box.shell("stat -c %u:%g / /bin/busybox /etc /dev").stdout == b"0:0\n" * 4
    fields = status_fields(box.workload)
    base = str(box.config["ids"]["uid"])
    assert fields["Uid"].split() == fields["Gid"].split() == [base] * 4


def test_mounts_do_not_propagate(fresh_host: Host, tmp_path: Path) -> None:
    """From a shared part of the host into the sandbox, nor back."""
    mounts.mount(str(tmp_path), str(tmp_path), flags=mounts.MS_BIND)
    try:
        mounts.mount("none", str(tmp_path), flags=1 << 20)
        image = tmp_path / "image"
        shutil.copytree(fresh_host.image, image, symlinks=True)
        (image / "late").mkdir()
        box = fresh_host.started("a", SLEEP, lower=image, capabilities=1 << 21, seccomp=None)
        mounts.mount("tmpfs", str(image / "late"), "tmpfs")
        (image / "late" / "of-the-host").write_text("")
        before = Path("/proc/self/mountinfo").read_text()
        assert box.shell("ls -A /late").stdout == b""
        assert box.shell("mount -t tmpfs none /late && touch /late/inside").code == 0
        assert Path("/proc/self/mountinfo").read_text() == before
        assert os.listdir(image / "late") == ["of-the-host"]
        text = Path(f"/proc/{box.workload}/mountinfo").read_text()
        assert "shared:" not in text
        assert "master:" not in text
        fresh_host.clear()
    finally:
        for path in (tmp_path / "image" / "late", tmp_path):
            if os.path.ismount(path) or path == tmp_path:
                mounts.umount(str(path))


def test_no_host_path_shows_in_mountinfo(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP)
    text = box.shell("cat /proc/self/mountinfo").stdout.decode()
    points = [line.split()[4] for line in text.splitlines()]
    assert all(re.match(r"/($|proc|sys|dev|tmp|etc/hosts)", point) for point in points), points


def test_time_offsets(sandbox_host: Host) -> None:
    offset = {"monotonic": -0.5, "boottime": 86400.25}
    box = sandbox_host.started("a", SLEEP, time_offset=offset)
    inside = float(box.exec(["cat", "/proc/uptime"]).stdout.split()[0])
    outside = float(Path("/proc/uptime").read_text().split()[0])
    assert 86395 < inside - outside < 86405
    init, host = os.readlink(f"/proc/{box.init}/ns/time"), os.readlink("/proc/self/ns/time")
    assert init != host
    plain = sandbox_host.started("b", SLEEP)
    assert os.readlink(f"/proc/{plain.init}/ns/time") == host


def test_namespaces_are_the_pinned_ones(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, time_offset={"monotonic": 0, "boottime": 5})
    for kind in ("user", "net", "uts", "ipc", "time"):
        pin = os.stat(box.paths.pin(kind))
        found = os.stat(f"/proc/{box.workload}/ns/{kind}")
        assert (pin.st_dev, pin.st_ino) == (found.st_dev, found.st_ino), kind
        assert stat.S_ISREG(pin.st_mode)
    assert box.exec(["hostname"]).stdout == b"a\n"


def test_rejoined_namespaces_keep_their_settings(sandbox_host: Host) -> None:
    box = sandbox_host.started("a", SLEEP, sysctls={"net.ipv4.ip_unprivileged_port_start": "7"})
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    for _ in range(2):
        assert box.exec(["cat", path]).stdout == b"7\n"
        assert b"UP" in box.shell("ip link show lo").stdout
        box.stop()
        box.start()


# -- rule 4: nothing of the tenant's is opened between entering the sandbox and exec


CALL = re.compile(r"(\d+) +(\w+)\((.*)")
PATH_CALLS = ("open", "openat", "openat2", "execve", "readlink", "stat", "newfstatat", "access")


def test_init_opens_nothing_by_path_inside(fresh_host: Host, tmp_path: Path) -> None:
    box = fresh_host.created("a", SLEEP)
    for name in ("ld.so.preload", "locale.alias", "nsswitch.conf", "localtime"):
        planted(box, f"etc/{name}").write_text("hostile\n")
    trace = tmp_path / "trace"
    calls = ",".join(("setns", "fork", "vfork", "clone", "clone3", "prctl", *PATH_CALLS))
    launcher = fresh_host.launcher_pid()
    pid = str(until(lambda: zygote_of(launcher), what="the zygote has its name"))
    options = ["-f", "-qq", "--decode-pids=pidns", "-e", f"trace={calls}"]
    strace = subprocess.Popen(["strace", *options, "-o", trace, "-p", pid], stderr=subprocess.PIPE)
    try:
        until(lambda: status_fields(int(pid))["TracerPid"] != "0", what="strace attaches")
        box.start()
        init = box.init
        assert box.exec(["true"]).code == 0
        with files.opened(fresh_host.paths, "a") as server:
            server.stat(b"/etc/passwd")
        box.stop()
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate()
    lines = trace.read_text().splitlines()
    inside = opened_inside(lines, init)
    # And what the client of the file server asks for.
    allowed = (
        'execve("/bin/sleep"', 'execve("/bin/true"', 'openat2(AT_FDCWD, "/etc/passwd"'
    )  # fmt: skip
    found = {next((call for call in allowed if call in f"{c}({t}"), t) for c, t in inside}
    assert found == set(allowed), lines


def opened_inside(lines: list[str], init: int) -> list[tuple[str, str]]:
    """Calls with a path of init after it entered the mount namespace, and of its children."""
    calls = list(whole_calls(lines))
    family, entered, found = {init}, False, []
    # First, as a child may act before the call that made it is seen to return.
    for pid, call, text in calls:
        if pid in family and call in ("clone", "fork", "vfork", "clone3"):
            outside = re.search(r"/\* (\d+) in strace", text)
            family.add(int(outside[1]) if outside else 0)
    executed: set[int] = set()
    for pid, call, text in calls:
        if pid not in family:
            continue
        if call == "setns" and "CLONE_NEWNS" in text:
            entered = True
        elif entered and call in PATH_CALLS and pid not in executed and ', "", ' not in text:
            found.append((call, text))
            if call == "execve" and text.endswith("= 0"):
                executed.add(pid)
    return found


def whole_calls(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Pid, name and the rest, with calls that strace had to interrupt put together again."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[pid] = line[: -len("<unfinished ...>")]
            continue
        if " resumed>" in rest:
            line = begun.pop(pid, "") + rest.split(" resumed>", 1)[1]
        match = CALL.match(line)
        if match:
            yield int(match[1]), match[2], match[3]
