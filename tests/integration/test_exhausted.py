# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A sandbox that takes all there is of something: root can look, stop and remove all the same."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import (
    Deployment,
    eventually,
    fetch,
    free_port,
    needs_root,
    sandbox,
    short_directory,
    untouched_host,
)
from sandlot import cgroups
from sandlot.build import stacking
from sandlot.errors import SandlotError
from sandlot.idmap import edit
from sandlot.kernel import fork, mounts, namespaces
from sandlot.kernel.files import names

pytestmark = needs_root

MIB = 1 << 20
UID = 200000
SERVE = ["sh", "-c", "mkdir -p /srv; echo hello > /srv/index.html; exec httpd -f -p 80 -h /srv"]
PIDS, DESCRIPTORS = 32, 64
# Each goes on to take what becomes free.
_FILL = "dd if=/dev/zero of=/fill$((n=n+1)) bs=64k; dd if=/dev/zero of=/rest$n bs=1k"
FILL = f"while :; do {_FILL}; done"
TOUCH = "while :; do touch /file$((n=n+1)) || usleep 1000; done"
FORK = "exec awk 'BEGIN { while (1) system(\"sleep 1000 &\") }'"
OPEN = "exec tail -f $(find / -xdev -type l | head -n 300) /dev/null"
ALLOCATE = "while :; do tail /dev/zero; done"
FILL_MEMORY = "while :; do dd if=/dev/zero of=/dev/shm/fill bs=64k; done"


def no_space(host: Deployment) -> bool:
    return os.statvfs(host.paths.root).f_bavail == 0


def no_inodes(host: Deployment) -> bool:
    return os.statvfs(host.paths.root).f_ffree == 0


def no_pids(host: Deployment) -> bool:
    return cgroup_file(host, "pids", "pids.current").read_text() == f"{PIDS}\n"


def no_descriptors(host: Deployment) -> bool:
    pids = cgroup_file(host, "pids", "cgroup.procs").read_text().split()
    return any(len(names(f"/proc/{pid}/fd")) == DESCRIPTORS for pid in pids)


def no_memory(host: Deployment) -> bool:
    events = cgroup_file(host, "memory", "memory.oom_control").read_text()
    return "oom_kill 0" not in events


def cgroup_file(host: Deployment, controller: str, name: str) -> Path:
    hierarchy = cgroups.detect().having(controller)
    assert hierarchy is not None
    return Path(hierarchy.sandbox(host.paths, "hog"), name)


@dataclass(frozen=True)
class Resource:
    """``script`` takes all of it, and goes on so; ``share`` is root's percentage of the disk."""

    script: str
    is_exhausted: Callable[[Deployment], bool]
    share: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    # Not if the kernel kills init as well, as a tmpfs is in memory until all processes have gone.
    is_entered: bool = True


MEMORY = {"memory": "16m", "memory_swap": "16m"}
RESOURCES = {
    "space": Resource(FILL, no_space),
    "space but for root's": Resource(FILL, no_space, share=10),
    "inodes": Resource(TOUCH, no_inodes),
    "pids": Resource(FORK, no_pids, options={"pids_limit": PIDS}),
    "descriptors": Resource(
        OPEN, no_descriptors, options={"ulimits": [f"nofile:{DESCRIPTORS}:{DESCRIPTORS}"]}
    ),
    "memory": Resource(ALLOCATE, no_memory, options=MEMORY),
    "memory of a tmpfs": Resource(FILL_MEMORY, no_memory, options=MEMORY, is_entered=False),
}


@contextlib.contextmanager
def small_disk(share: int) -> Iterator[str]:
    """An ext4 of 40 MiB and 1500 inodes, mounted on a short path."""
    with short_directory() as root:
        image = f"{root}.img"
        with open(image, "wb") as disk:
            disk.truncate(40 * MIB)
        words = ["-t", "ext4", "-m", str(share), "-N", "1500"]
        subprocess.run(["mke2fs", "-q", *words, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, root], check=True)
        os.unlink(image)
        os.chmod(root, 0o755)
        try:
            yield root
        finally:
            mounts.umount(root, 0)
            # A loop device goes with the last mount namespace that knew it.
            eventually(lambda: not any(image in path.read_text() for path in backing_files()))


@contextlib.contextmanager
def small_host(share: int) -> Iterator[Deployment]:
    """A host with a small disk, and a tmpfs on /run."""
    with small_disk(share) as root:
        os.mkdir(f"{root}/run")
        mounts.mount("tmpfs", f"{root}/run", "tmpfs", data="size=8m,mode=755")
        host = Deployment(root)
        try:
            with untouched_host(root):
                try:
                    host.prepare()
                    yield host
                finally:
                    host.teardown()
        finally:
            mounts.umount(f"{root}/run", 0)


def backing_files() -> list[Path]:
    return list(Path("/sys/block").glob("loop*/loop/backing_file"))


def run_command(host: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    return subprocess.run(
        [host.paths.command, *words], env=environment, capture_output=True, text=True, timeout=60
    )


def command(host: Deployment, *words: str) -> str:
    done = run_command(host, *words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def entered(host: Deployment, resource: Resource) -> bool:
    """Whether root can look; for want of memory, the kernel may kill what looks, or init."""
    looks = (
        (("exec", "hog", "--", "echo", "hello"), "hello\n"),
        (("cp", "hog:/etc/hostname", "-"), "hog\n"),
    )
    if resource.options == MEMORY:
        for words, shown in looks:
            eventually(lambda words=words, shown=shown: run_command(host, *words).stdout == shown)
        return True
    return all(command(host, *words) == shown for words, shown in looks)


def is_room_again(host: Deployment, before: os.statvfs_result) -> bool:
    """But for a few small files of ours, such as logs."""
    now = os.statvfs(host.paths.root)
    blocks, inodes = before.f_bfree - now.f_bfree, before.f_ffree - now.f_ffree
    return blocks * before.f_frsize < MIB // 16 and inodes < 16


@pytest.mark.parametrize("kind", RESOURCES)
def test_exhausted(kind: str) -> None:
    """Others work, root looks, stops and removes, and the room is there again."""
    resource = RESOURCES[kind]
    options = {"restart_policy": "unless-stopped", "stop_timeout": 1, **resource.options}
    hog = sandbox("hog", command=["sh", "-c", resource.script], **options)
    port = free_port()
    web = sandbox("web", command=SERVE, published_ports=[f"127.0.0.1:{port}:80"])
    with small_host(resource.share) as host:
        host.converged(web)
        before = os.statvfs(host.paths.root)
        for operation in (stop, remove, tear_down):
            assert not host.run(web, hog).failed
            eventually(lambda: resource.is_exhausted(host))
            listed = command(host, "list")
            assert "hog" in listed and "web" in listed
            if resource.is_entered:
                limit = cgroup_file(host, "pids", "pids.max")
                most = limit.read_text()
                assert entered(host, resource)
                assert limit.read_text() == most
            assert "hello" in fetch("127.0.0.1", port)
            operation(host)
            eventually(lambda: is_room_again(host, before))


def stop(host: Deployment) -> None:
    for name in ("hog", "web"):
        command(host, "stop", name)
        assert host.info(name)["state"] == "stopped"
    remove(host)


def remove(host: Deployment, *names: str) -> None:
    assert not host.run(*(sandbox(name, state="absent") for name in names or ("hog",))).failed


def tear_down(host: Deployment) -> None:
    assert not host.run(purge=True, purge_snapshots=True).failed


def fill(path: str) -> None:
    """Take all blocks that root may take, down to the last one."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))
            os.fsync(file.fileno())


def test_only_with_a_spare_is_a_stop_recorded() -> None:
    """The control is a record without a spare. A removal needs none."""
    with small_host(share=0) as host:
        host.converged(sandbox("a"), sandbox("b"))
        os.unlink(host.paths.sandbox("b").spare)
        filler = f"{host.paths.root}/fill"
        with open(filler, "wb") as file:
            free = os.statvfs(host.paths.root)
            os.posix_fallocate(file.fileno(), 0, (free.f_bavail - 256) * free.f_frsize)
        fill(f"{filler}.rest")
        assert not host.run(sandbox("a", state="stopped")).failed
        with pytest.raises(SandlotError, match="b: write record: .*record.json: No space left"):
            host.run(sandbox("b", state="stopped"))
        assert [host.info(name)["state"] for name in ("a", "b")] == ["stopped", "running"]
        remove(host, "a", "b")
        assert not os.listdir(host.paths.sandboxes)


def test_without_room_for_ids_the_next_run_goes_on(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files go first, ids later, and the record last: another sandbox may have taken the room."""

    def no_room(*_words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    host.converged(sandbox("a"), sandbox("b"))
    with monkeypatch.context() as patched:
        patched.setattr(edit, "_replace", no_room)
        with pytest.raises(SandlotError, match="cannot edit .*subuid: No space left"):
            host.run(sandbox("a", state="absent"), sandbox("b"))
    assert not os.path.exists(host.paths.sandbox("a").layer)
    assert "sandlot.a" in Path(host.paths.subuid).read_text()
    host.converged(sandbox("b"))
    assert not os.path.exists(host.paths.sandbox("a").state)
    assert "sandlot.a" not in Path(host.paths.subuid).read_text()


def write_until_full(upper: str, user: int) -> bytes:
    """Fill a disk as the sandbox's user, through an overlay that ``user`` has mounted."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("tmpfs", "/mnt", "tmpfs", data="mode=755")
    for name in ("lower", "merged"):
        os.mkdir(f"/mnt/{name}", 0o755)
    stacking.Overlay("/mnt/merged", ["/mnt/lower"], upper, user=user).stack({})
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    try:
        with open("/mnt/merged/fill", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
    except OSError as error:
        return errno.errorcode[error.errno or 0].encode()


@pytest.mark.parametrize(("user", "stay"), [(UID, True), (0, False)], ids=["ours", "control"])
def test_blocks_for_root_stay(user: int, stay: bool) -> None:
    """The control: an overlay that root mounts gives a tenant the blocks kept for root."""
    with small_disk(share=10) as disk:
        for path in ("upper", "work"):
            os.mkdir(f"{disk}/{path}")
        os.chown(f"{disk}/upper", UID, UID)
        before = os.statvfs(disk)
        kept = before.f_bfree - before.f_bavail
        outcome, _ = fork.call(lambda _report: write_until_full(disk, user))
        assert outcome == b"ENOSPC"
        # The control leaves what the file system keeps for itself.
        assert (os.statvfs(disk).f_bfree > kept * 0.9) is stay
