# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A host of its own under a moved root, with the runtime and an image; taken down completely."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import session_trees
from sandlot import cgroups, converge, images, network
from sandlot.build import creator
from sandlot.configuration import memory
from sandlot.converge import Result
from sandlot.host import install
from sandlot.kernel import mount_points, mounts
from sandlot.launcher.client import Launcher
from sandlot.network.common import declare
from sandlot.plan import apply_all
from sandlot.sandbox import runtime
from sandlot.site import Site
from sandlot.spec import normalise_all
from sandlot.volumes import closing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import fingerprint  # noqa: E402

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, links and cgroups")
IDLE = ["sleep", "1000000"]


def sandbox(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox", "command": IDLE, **options}


def _prefix(root: str) -> str:
    return f"10.{128 + int(Site(root).tag[:2], 16) % 120}"


_taken: set[str] = set()


class Deployment:
    """What a user does to one host, by the engine's own calls."""

    def __init__(self, root: str) -> None:
        self.paths = Site(root)
        self.prepared: set[str] = set()
        Path(root, "etc").mkdir(parents=True, exist_ok=True)

    @property
    def prefix(self) -> str:
        """The first two bytes of the root's own subnets, so that deployments don't meet."""
        return _prefix(self.paths.root)

    def declare(self) -> None:
        subnet = {"name": "default", "ipv4_subnet": f"{self.prefix}.0.0/22"}
        declare.save(self.paths, network.normalise(self.paths, [subnet]))

    def prepare(self) -> None:
        self.set_up()
        self.prepared = paths_below(self.paths.root)

    def set_up(self) -> None:
        """Without a look at all files, for a root that shows this machine's."""
        session_trees.release(self.paths)
        session_trees.image(self.paths)
        install.present(self.paths, check=False)
        self.furnish()

    def furnish(self, *, purge: bool = False) -> None:
        """Its networks and images."""
        os.makedirs(self.paths.state, mode=0o700, exist_ok=True)
        self.declare()
        spec = images.normalise_all([session_trees.BUSYBOX])
        apply_all(images.operations(self.paths, spec, purge=purge))

    def run(self, *specs: dict[str, Any], **options: Any) -> Result:
        request = converge.request(normalise_all(list(specs)), **options)
        return converge.converge(self.paths, request)

    def converged(self, *specs: dict[str, Any], **options: Any) -> Result:
        """A run without failures, after which there is nothing to do."""
        result = self.run(*specs, **options)
        assert not result.failed, result.failed
        again = self.run(*specs, purge=options.get("purge", False))
        assert again.actions == [], again.actions
        return result

    def info(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = converge.info(self.paths, [name])[0]
        return found

    def pid(self, name: str) -> int:
        running = runtime.running(self.paths.sandbox(name))
        assert running is not None, (
            f"{name} does not run: {runtime.status(self.paths.sandbox(name))}"
        )
        return running.pid

    def inside(self, name: str, path: str) -> str:
        """A file as the sandbox sees it."""
        return Path(f"/proc/{self.pid(name)}/root{path}").read_text()

    def kill(self, name: str) -> None:
        """End init as a crash would; returns when it is dead."""
        pidfd = os.pidfd_open(self.pid(name))
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_readable(pidfd)
        finally:
            os.close(pidfd)

    def reboot(self) -> None:
        """What a boot leaves: state, and nothing in the kernel or under run."""
        launcher = Launcher(self.paths)
        names = [entry["name"] for entry in converge.info(self.paths)]
        launcher.stop(names)
        sandboxes = [self.paths.sandbox(name) for name in names]
        rebuilds = [box.in_slot(which).address for box in sandboxes for which in ("next", "old")]
        launcher.destroy([*names, *rebuilds])
        launcher.quit()
        state = network.observe(self.paths)
        apply_all(network.teardown_operations(self.paths, state))
        self.declare()
        observed = cgroups.observe(self.paths, names)
        for name in names:
            apply_all(cgroups.remove_operations(self.paths, name, observed))
        memory.release(self.paths)
        shutil.rmtree(self.paths.run)

    def reset(self) -> None:
        """As it was prepared, for the next test."""
        result = self.run(purge=True, volumes={}, purge_volumes=True, purge_snapshots=True)
        assert not result.failed, result.failed
        # It would repair a network that is taken down under it.
        Launcher(self.paths).quit()
        apply_all(network.teardown_operations(self.paths, network.observe(self.paths)))
        self.furnish(purge=True)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.paths.sandboxes)
        made = (f"{self.paths.state}/names.json", self.paths.mask)
        for path in (*made, *Path(self.paths.run).glob("launcher.*")):
            Path(path).unlink(missing_ok=True)
        shutil.rmtree(self.paths.python, ignore_errors=True)
        for entry in os.scandir(self.paths.root):
            if entry.path not in self.prepared:
                # The test's own, beside what a host has.
                shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
        changed = self.prepared ^ paths_below(self.paths.root)
        assert not changed, f"a test left behind or took away {sorted(changed)}"

    def teardown(self) -> None:
        """As a user would; what that leaves behind is a failure, and removed all the same."""
        try:
            result = self.run(purge=True, volumes={}, purge_volumes=True, purge_snapshots=True)
            assert not result.failed, result.failed
            install.absent(self.paths, check=False)
        finally:
            scrub(self.paths)


def scrub(paths: Site) -> None:
    """Nothing of this root in the kernel, whatever the state files say."""
    Launcher(paths).quit()
    for point in reversed(mount_points.within(paths.state)):
        mounts.umount(point)
    closing.reopen(paths)
    memory.release(paths)
    names = [*cgroups.names(paths), *runtime.names(paths)]
    observed = cgroups.observe(paths, names)
    for name in names:
        apply_all(cgroups.remove_operations(paths, name, observed))
        creator.destroy(paths.sandbox(name))
    apply_all(cgroups.teardown_operations(paths, cgroups.observe(paths, [])))
    apply_all(network.teardown_operations(paths, network.observe(paths)))


def wait_readable(fd: int, seconds: float = 20.0) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(seconds * 1000), "timed out"


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """For what no descriptor tells of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        pause()


def pause() -> None:
    """Between two looks: other workers want the processor."""
    select.select([], [], [], 0.01)


def descriptors(pid: int, *, looks: int) -> int:
    """The fewest of many looks: what a client has closed is closed a moment later."""
    return min(len(os.listdir(f"/proc/{pid}/fd")) for _ in range(looks))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fetch(address: str, port: int) -> str:
    """What a web server answers; it may not listen yet when its sandbox has just been started."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            return _fetch(address, port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        pause()


def _fetch(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def paths_below(root: str) -> set[str]:
    """Compiled code aside, as any process may compile."""
    found = set()
    for directory, names, files in os.walk(root):
        found.update(f"{directory}/{name}" for name in [*names, *files])
    return {path for path in found if "__pycache__" not in path}


def tree(root: str) -> list[str]:
    """Every file under a root with what a write would change; sockets' and logs' times aside."""
    found = []
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found.append(f"{path} {status.st_mode:o} {status.st_size} {status.st_mtime_ns}")
    return sorted(found)


@contextlib.contextmanager
def short_directory() -> Iterator[str]:
    """Short, because the path of a unix socket is at most 107 bytes long.

    No two of them at a time have subnets in common.
    """
    root = tempfile.mkdtemp(prefix="sl", dir="/var/tmp")
    while _prefix(root) in _taken:
        os.rmdir(root)
        root = tempfile.mkdtemp(prefix="sl", dir="/var/tmp")
    _taken.add(_prefix(root))
    try:
        yield root
    finally:
        _taken.remove(_prefix(root))
        shutil.rmtree(root)


@contextlib.contextmanager
def untouched_host(root: str) -> Iterator[None]:
    """Asserts that the host is left as it was found."""
    before = fingerprint.fingerprint(root)
    yield
    changes = fingerprint.changes_since(before, root)
    assert not changes, "\n".join(changes)


@contextlib.contextmanager
def deployed() -> Iterator[Deployment]:
    with short_directory() as root:
        deployment = Deployment(root)
        with untouched_host(root):
            try:
                deployment.prepare()
                yield deployment
            finally:
                deployment.teardown()
        assert_gone(deployment.paths)
    session_trees.assert_unchanged()


class Reused:
    """One deployment for many tests, reset after each, and made again when that fails."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._deployment: Deployment | None = None

    @contextlib.contextmanager
    def lent(self, *, keep: bool) -> Iterator[Deployment]:
        if self._deployment is None:
            self._deployment = self._stack.enter_context(deployed())
        try:
            yield self._deployment
            if keep:
                self._deployment.reset()
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                self.close()

    def close(self) -> None:
        self._deployment = None
        self._stack.close()


def assert_gone(paths: Site) -> None:
    assert not os.path.exists(paths.state)
    assert not os.path.exists(paths.run)
    assert not os.path.exists(paths.lib)
    assert not os.path.exists(f"{paths.root}/usr/local/share")
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    assert not [link["ifname"] for link in links if paths.tag in link["ifname"]]
