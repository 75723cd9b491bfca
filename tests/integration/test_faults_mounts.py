# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mounts of others where ours are, file servers that hang, and shells of the host inside."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import hung_fuse
import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandboxes import wait_dead
from sandlot import converge
from sandlot.errors import ForeignError, SandlotError, SpecError
from sandlot.host import doctor, facts
from sandlot.kernel import mount_points, mountinfo, mounts, namespaces, processes
from sandlot.kernel.trees import remove_entry, remove_tree
from sandlot.launcher import stopper
from sandlot.sandbox import runtime

pytestmark = needs_root
needs_fuse = pytest.mark.skipif(not os.path.exists(hung_fuse.DEVICE), reason="no /dev/fuse here")


@contextlib.contextmanager
def running(argv: Sequence[str], cwd: str = "/") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        with process:
            process.wait()


def waits(path: str) -> bool:
    """Whether a look at a path waits for somebody."""
    with running(["stat", path]) as process:
        assert process.stdout
        waiting = not select.select([process.stdout], [], [], 0.3)[0]
        if waiting:
            eventually(lambda: processes.waits_in(process.pid) == "request_wait_answer")
            hung_fuse.end(server_of[path])
        return waiting


server_of: dict[str, int] = {}


def read(host: Deployment) -> None:
    """All that only looks."""
    assert converge.info(host.paths)
    doctor.examine(host.paths, facts.gather(host.paths))


def test_many_looks_read_the_mounts_once_until_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = []
    read = mountinfo.points
    monkeypatch.setattr(mountinfo, "points", lambda: readings.append(1) or read())
    top, moved, like = (tmp_path / name for name in ("top", "moved", "top-not"))
    for path in (top / "x", like):
        path.mkdir(parents=True)

    def looks() -> tuple[list[str], list[str], int]:
        readings.clear()
        return mount_points.within(str(top)), mount_points.within(str(like)), len(readings)

    with mount_points.kept():
        assert looks() == ([], [], 1)
        assert looks() == ([], [], 0)
        mounts.mount("none", str(top / "x"), "tmpfs")
        # One to know, one to name it.
        assert looks() == ([str(top / "x")], [], 2)
        with mount_points.kept():
            with pytest.raises(ForeignError, match=f"somebody has mounted {top}/x"):
                remove_tree(str(top))
        top.rename(moved)
        mount_points.renamed()
        assert mount_points.within(str(moved)) == [str(moved / "x")]
        mounts.umount(str(moved / "x"))
        assert looks() == ([], [], 1)
    assert looks() == ([], [], 2)


def test_a_child_leaves_the_news_of_mounts_to_its_parent(tmp_path: Path) -> None:
    with mount_points.kept():
        assert mount_points.within(str(tmp_path)) == []
        mounts.mount("none", str(tmp_path), "tmpfs")
        try:
            child = os.fork()
            if child == 0:
                os._exit(mount_points.within(str(tmp_path)) != [str(tmp_path)])
            assert os.waitpid(child, 0)[1] == 0
            assert mount_points.within(str(tmp_path)) == [str(tmp_path)]
        finally:
            mounts.umount(str(tmp_path))


# -- file servers that hang


@needs_fuse
def test_a_hung_file_system_in_a_layer(host: Deployment) -> None:
    """No look, run or removal asks it; what it is mounted on is removed once it is gone."""
    host.converged(sandbox("a"), sandbox("b"))
    inner = Path(host.paths.sandbox("a").upper, "data")
    inner.mkdir()
    with hung_fuse.hung(str(inner)) as server:
        server_of[str(inner)] = server
        read(host)
        host.converged(sandbox("a"), sandbox("b"))
        host.converged(sandbox("a", state="stopped"), sandbox("b"))
        host.converged(sandbox("a"), sandbox("b"))
        result = host.run(sandbox("b"), purge=True)
        assert f"somebody has mounted {inner}; unmount it" in result.failed["a"]
        result = host.run(sandbox("a", recreate=True), sandbox("b"))
        assert f"somebody has mounted {inner}; unmount it" in result.failed["a"]
        # The control, last because it ends the server: the path does hang.
        assert waits(str(inner))
    host.converged(sandbox("b"), purge=True)
    host.converged(sandbox("a"), sandbox("b"))


@needs_fuse
def test_a_hung_file_system_in_the_place_of_a_network(host: Deployment) -> None:
    place = Path(host.paths.root, "netns")
    place.mkdir()
    with hung_fuse.hung(str(place)) as server:
        server_of[str(place)] = server
        with pytest.raises(SpecError, match="is no network namespace but on a file system fuse"):
            host.run(sandbox("a", network_mode=f"ns:{place}/x"))
        assert waits(str(place))


def enter(pid: int, fd: int, target: str) -> None:
    """Attach a mount of the host inside a sandbox."""
    mnt = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        namespaces.setns(mnt, namespaces.CLONE_NEWNS)
        mounts.attach(fd, target)
        os._exit(0)
    os.close(mnt)
    assert os.waitpid(child, 0)[1] == 0


@needs_fuse
def test_a_workload_that_hangs_with_its_file_server(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ends it before its server; then the next run does what is left."""
    argv = ["sh", "-c", "until test -e /go; do sleep 0.1; done; exec cat /srv/x"]
    host.converged(sandbox("a", command=argv, stop_timeout=1), sandbox("b"))
    init = host.pid("a")
    os.mkdir(f"/proc/{init}/root/srv")
    place = Path(host.paths.root, "volume")
    place.mkdir()
    with hung_fuse.hung(str(place)) as server:
        fd = mounts.clone_tree(str(place))
        enter(init, fd, "/srv")
        os.close(fd)
        Path(f"/proc/{init}/root/go").touch()
        eventually(lambda: any(map(hangs, processes.below(init))))
        workload = next(filter(hangs, processes.below(init)))
        read(host)
        host.converged(sandbox("a", command=argv, stop_timeout=1), sandbox("b"))
        monkeypatch.setattr(stopper, "KILL_DEADLINE", 1.0)
        failures: list[SandlotError | None] = []
        stopper.stop_all([host.paths.sandbox("a")], lambda name, error: failures.append(error))
        words = rf"process {workload} \(cat\), which waits inside the kernel in request_wait_answer"
        assert re.search(f"{words}; its file server", str(failures[0]))
        read(host)
        assert namespaces.start_time(workload) is not None
        hung_fuse.end(server)
        wait_dead(init)
    host.converged(sandbox("b"), purge=True)


def hangs(pid: int) -> bool:
    return processes.waits_in(pid) == "request_wait_answer"


# -- other people's mounts


def test_files_of_others_mounted_in_a_layer_survive(host: Deployment) -> None:
    host.converged(sandbox("a"))
    theirs, kept = Path(host.paths.root, "theirs"), Path(host.paths.sandbox("a").upper, "x/data")
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    kept.mkdir(parents=True)
    mounts.mount(str(theirs), str(kept), flags=mounts.MS_BIND)
    try:
        # The control: removed by its name it would be gone.
        (kept / "other").write_text("x")
        os.unlink(kept / "other")
        assert f"mounted {kept}" in host.run(purge=True).failed["a"]
        with pytest.raises(ForeignError, match=f"umount {kept}"):
            remove_tree(host.paths.sandbox("a").layer)
        with pytest.raises(ForeignError, match=f"umount {kept}"):
            remove_entry(host.paths.sandbox("a").layer)
        # Also when it is mounted after the look for mounts.
        with pytest.MonkeyPatch.context() as late:
            late.setattr(mount_points, "within", lambda path: [])
            with pytest.raises(OSError, match="Invalid cross-device link"):
                remove_tree(str(kept.parent))
        assert (theirs / "precious").read_text() == "x"
    finally:
        mounts.umount(find(host, "data"))
    host.converged(purge=True)


def find(host: Deployment, name: str) -> str:
    (point,) = (p for p in mount_points.within(host.paths.root) if os.path.basename(p) == name)
    return point


def test_a_mount_over_files_of_a_run(host: Deployment) -> None:
    """A stale tmpfs at the runtime directory of a sandbox is named and left alone."""
    host.converged(sandbox("a"), sandbox("b"))
    etc = host.paths.sandbox("a").etc
    mounts.mount("tmpfs", etc, "tmpfs")
    try:
        read(host)
        assert f"somebody has mounted {etc}" in host.run(sandbox("b"), purge=True).failed["a"]
    finally:
        mounts.umount(etc)
    host.converged(sandbox("b"), purge=True)


# -- shells of the host


def shells(host: Deployment) -> dict[str, tuple[list[str], str]]:
    """Command and working directory of somebody who looks around."""
    box, pid = host.paths.sandbox("a"), host.pid("a")
    return {
        "in the layer": (["cat"], box.upper),
        "in the root": (["cat"], f"/proc/{pid}/root/tmp"),
        "with a file": (["sh", "-c", f"exec 5>{box.upper}/open; exec cat"], "/"),
        "in the network": (["nsenter", f"--net={box.pin('net')}", "cat"], "/"),
        "in the mounts": (["nsenter", "-t", str(pid), "-m", "-n", "-i", "-u", "cat"], "/"),
        "at the pins": (["cat"], box.pins),
    }


def test_shells_of_the_host_stop_nothing(host: Deployment) -> None:
    host.converged(sandbox("a"))
    with contextlib.ExitStack() as stack:
        everybody = [stack.enter_context(running(argv, cwd)) for argv, cwd in shells(host).values()]
        for shell in everybody:
            assert shell.stdin and shell.stdout
            shell.stdin.write(b"x\n")
            shell.stdin.flush()
            assert shell.stdout.readline() == b"x\n"
        host.converged(sandbox("a", state="stopped"))
        host.converged(sandbox("a"))
        assert not host.run(sandbox("a"), recreate=True).failed
        address = host.info("a")["addresses"]
        host.converged(purge=True)
        assert runtime.pinned(host.paths.sandbox("a")) == set()
        host.converged(sandbox("a"))
        assert host.info("a")["addresses"] == address
        assert [shell.poll() for shell in everybody] == [None] * len(everybody)
