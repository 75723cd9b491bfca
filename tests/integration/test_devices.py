# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option devices: what a sandbox may do to a node of the host, and what it may not."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import IDLE, Deployment, needs_root, sandbox
from netmode_fixtures import run_inside
from sandboxes import workload_of
from sandlot.cli import explain
from sandlot.converge import upkeep
from sandlot.errors import SandlotError
from sandlot.kernel import device_rules
from test_cli_explain import mounts, release, running_script

pytestmark = needs_root
FUSE, TUN = (10, 229), (10, 200)


def node(host: Deployment, number: tuple[int, int], kind: int = stat.S_IFCHR) -> str:
    """A device of the host, in a place of the test's own."""
    path = f"{host.paths.root}/thing"
    Path(path).unlink(missing_ok=True)
    os.mknod(path, kind | 0o600, os.makedev(*number))
    return path


def cgroup(host: Deployment, name: str) -> str:
    return device_rules.place([f"/sys/fs/cgroup/devices/{host.paths.cgroup}/{name}"])


def opens(host: Deployment, path: str, how: str) -> str:
    """What the workload's shell says: "" when the device opens."""
    done = run_inside(host, "a", "sh", "-c", f"exec 3{how}{path}")
    return done.stderr.rpartition(": ")[2].strip() if done.returncode else ""


def test_a_sandbox_opens_its_devices_as_far_as_their_mode_allows(host: Deployment) -> None:
    path = node(host, FUSE)
    # DAC_OVERRIDE opens whatever the permissions say, so the cgroup alone is in the way.
    plain = sandbox("a", security_profile="daemon")
    host.converged(plain)
    assert "such file" in opens(host, "/dev/sub/fuse", "<")
    assert not device_rules.are_any(cgroup(host, "a"))
    result = host.converged({**plain, "devices": [f"{path}:/dev/sub/fuse"]})
    assert f'a: devices [] -> ["{path}:/dev/sub/fuse"] (restart)' in result.actions
    assert host.info("a")["relaxed"][-1] == f"devices: {path}:/dev/sub/fuse"
    assert opens(host, "/dev/sub/fuse", "<>") == ""
    # Its owner inside can't open it to others.
    assert run_inside(host, "a", "chmod", "666", "/dev/sub/fuse").returncode
    status = os.stat(f"/proc/{host.pid('a')}/root/dev/sub/fuse")
    assert (stat.S_IMODE(status.st_mode), os.stat(path).st_uid) == (0o600, 0)
    result = host.converged({**plain, "devices": [f"{path}:/dev/sub/fuse:r"]})
    assert (opens(host, "/dev/sub/fuse", "<"), opens(host, "/dev/sub/fuse", ">")) == (
        "",
        "Operation not permitted",
    )
    assert opens(host, "/dev/null", "<>") == opens(host, "/dev/ptmx", "<>") == ""
    host.kill("a")
    host.converged({**plain, "devices": [f"{path}:/dev/sub/fuse:r"]})
    assert opens(host, "/dev/sub/fuse", ">") == "Operation not permitted"
    # Control: without the rule of the cgroup, the same write succeeds.
    device_rules.allow_everything(cgroup(host, "a"))
    assert opens(host, "/dev/sub/fuse", ">") == ""
    result = host.converged({**plain, "devices": [f"{path}:/dev/sub/fuse:r"]})
    assert result.actions == ["a: cgroup: allow its devices only"]
    assert opens(host, "/dev/sub/fuse", ">") == "Operation not permitted"
    host.converged(plain)
    assert "such file" in opens(host, "/dev/sub/fuse", "<")
    assert not device_rules.are_any(cgroup(host, "a"))


def test_another_device_at_the_path_is_noticed(host: Deployment) -> None:
    path = node(host, FUSE)
    spec = sandbox("a", devices=[f"{path}:/dev/thing"])
    host.converged(spec)
    node(host, TUN)
    result = host.converged(spec)
    assert result.actions[-1] == f"a: restart: {path} is another device now (restart)"
    assert os.stat(f"/proc/{host.pid('a')}/root/dev/thing").st_rdev == os.makedev(*TUN)
    running = host.pid("a")
    os.unlink(path)
    with pytest.raises(SandlotError, match="thing: No such file") as caught:
        host.run(spec)
    assert "plug it in" in caught.value.hint and host.pid("a") == running
    # A boot starts the others.
    host.run(sandbox("b"))
    host.reboot()
    result = upkeep.up(host.paths)
    assert "thing is not there" in result.failed["a"] and host.pid("b")
    node(host, FUSE)
    host.converged(spec)
    assert os.stat(f"/proc/{host.pid('a')}/root/dev/thing").st_rdev == os.makedev(*FUSE)


def test_what_no_sandbox_may_have_is_refused(host: Deployment) -> None:
    places = {
        node(host, (1, 1)): "memory of the host",
        "/dev": "a directory",
        "/etc/passwd": "no device",
        f"{host.paths.root}/none": "No such file",
    }
    for source, says in places.items():
        with pytest.raises(
            SandlotError, match=f"sandbox 'a': devices: {source}.* {says}"
        ) as caught:
            host.run(sandbox("a", devices=[f"{source}:/dev/x"]))
        assert caught.value.hint and not os.path.exists(host.paths.sandbox("a").state)
    os.chmod(host.paths.root, 0o777)
    try:
        with pytest.raises(SandlotError, match="other than root can change"):
            host.run(sandbox("a", devices=[f"{node(host, FUSE)}:/dev/x"]))
    finally:
        os.chmod(host.paths.root, 0o700)


@pytest.fixture(params=["devices", "unified"])
def hierarchy(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cgroup of version 1 or 2, beside those of sandboxes."""
    directory = f"/sys/fs/cgroup/{request.param}/sandlot-devices-{os.getpid()}"
    try:
        os.mkdir(directory)
    except FileNotFoundError:
        pytest.skip(f"this machine has no hierarchy {request.param}")
    yield directory
    os.rmdir(directory)


def opened_in(directory: str, number: tuple[int, int], flags: int, path: str) -> bool:
    """Whether a process in the cgroup opens a device."""
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*number))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Path(directory, "cgroup.procs").write_text(str(os.getpid()))
            os.open(path, flags | os.O_NONBLOCK)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(pid, 0)[1]
    os.unlink(path)
    return not status


def test_either_version_of_cgroups_denies_other_devices(hierarchy: str, tmp_path: Path) -> None:
    read_fuse = [*device_rules.USUAL, device_rules.Rule("c", *FUSE, "r")]
    all_misc = [*device_rules.USUAL, device_rules.Rule("c", 10, None, "rwm")]
    path, null = f"{tmp_path}/node", (1, 3)
    every = [(null, os.O_RDWR), (FUSE, os.O_RDONLY), (FUSE, os.O_RDWR), (TUN, os.O_RDWR)]

    def opens() -> list[bool]:
        return [opened_in(hierarchy, number, flags, path) for number, flags in every]

    assert device_rules.place(["/", hierarchy]) == hierarchy
    assert opens() == [True] * 4 and not device_rules.are_any(hierarchy)
    for rules, expected in ((read_fuse, [True, True, False, False]), (all_misc, [True] * 4)):
        device_rules.allow_only(hierarchy, rules)
        assert opens() == expected and device_rules.are_in_force(hierarchy, rules)
        assert device_rules.are_any(hierarchy)
    assert not device_rules.are_in_force(hierarchy, read_fuse)
    device_rules.allow_everything(hierarchy)
    assert opens() == [True] * 4 and not device_rules.are_any(hierarchy)
    device_rules.allow_everything(hierarchy)


@pytest.fixture
def mounted_disk(tmp_path: Path) -> Iterator[str]:
    image, directory = tmp_path / "image", tmp_path / "mounted"
    directory.mkdir()
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)
    found = subprocess.run(
        ["findmnt", "-no", "SOURCE", directory], capture_output=True, text=True, check=True
    )
    yield found.stdout.strip()
    subprocess.run(["umount", directory], check=True)


def test_a_mounted_disk_is_refused(host: Deployment, mounted_disk: str) -> None:
    with pytest.raises(SandlotError, match="in use by the host") as caught:
        host.run(sandbox("a", devices=[mounted_disk]))
    assert "volumes" in caught.value.hint


def test_explain_makes_the_same_nodes(host: Deployment) -> None:
    path = node(host, FUSE)
    host.converged(sandbox("a", devices=[f"{path}:/dev/sub/fuse:r"], command=IDLE))
    real = workload_of(host.pid("a"))
    assert ["/dev/sub/fuse", "ro,nosuid,noexec,relatime", "tmpfs"] in mounts(real)
    script = explain.script(explain.look(host.paths, "a", show_env=True))
    release(host, "a")
    with running_script(script) as pid:
        assert mounts(pid) == mounts(real)
