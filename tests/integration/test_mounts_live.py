# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Mounts that are added to, changed in and taken from sandboxes that run."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from netmode_fixtures import output, run_inside
from sandlot import converge
from sandlot.build import live_mounts
from sandlot.kernel import mountinfo
from sandlot.kernel.mounts import attach
from sandlot.sandbox import mount_state
from sandlot.spec import normalise_all

pytestmark = needs_root
LOOP = """
mkdir -p /play/real /play/other
while true; do
  mv /play/real /play/moved; ln -s / /play/real; rm /play/real; ln -s /proc /play/real
  rm /play/real; mv /play/moved /play/real
  mv /play/other /play/real/x 2>/dev/null; mv /play/real/x /play/other 2>/dev/null
done
"""


def files(host: Deployment, name: str = "www") -> str:
    """A directory of the host, with a file."""
    path = Path(host.paths.root, "served", name)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    (path / "file").write_text(name)
    return str(path)


def points(host: Deployment, name: str = "a") -> dict[str, int]:
    """How often something is mounted at each place."""
    places = [row.point for row in mountinfo.by_id(host.pid(name)).values()]
    return {place: places.count(place) for place in places}


def lines(result: converge.Result) -> list[str]:
    """The actions that are not about options."""
    options = (" -> ", "volumes changed", "mounts changed")
    return [line for line in result.actions if not any(text in line for text in options)]


def attach_of_old(
    fd: int, target: str = "", *, target_fd: int = -100, beneath: bool = False
) -> None:
    """As in kernels before 6.5."""
    if beneath:
        raise OSError(errno.EINVAL, "Invalid argument")
    attach(fd, target, target_fd=target_fd)


def test_mounts_change_while_the_workload_runs_on(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files(host, "data")
    www, other = files(host), files(host, "other")
    host.converged(sandbox("a"))
    running, before = host.pid("a"), points(host)
    both: dict[str, Any] = {
        "volumes": [f"{data}:/data:idmap", f"{www}:/www"],
        "mounts": [{"type": "tmpfs", "target": "/x", "tmpfs_size": "1m"}],
    }
    spec = normalise_all([sandbox("a", **both)])
    check = converge.converge(host.paths, converge.request(spec, check=True))
    line = f"a: mount {data} at /data, mount {www} at /www, mount a tmpfs at /x"
    assert lines(check)[-1] == line
    result = host.converged(sandbox("a", **both))
    assert lines(result)[-1] == line
    assert result.diff["after"]["a"].keys() == {"volumes (live)", "mounts (live)"}
    assert output(host, "a", "cat", "/www/file") == "www"
    output(host, "a", "sh", "-c", "echo kept >/data/x; echo 1 >/x/y")
    # Another source, read-only; the tmpfs stays.
    result = host.converged(
        sandbox("a", **{**both, "volumes": [f"{data}:/data:idmap,ro", f"{other}:/www"]})
    )
    assert lines(result) == [f"a: mount {data} at /data again, mount {other} at /www again"]
    assert output(host, "a", "cat", "/www/file", "/data/x", "/x/y") == "otherkept\n1\n"
    done = run_inside(host, "a", "touch", "/data/z")
    assert "Read-only file system" in done.stderr
    # One in another, which had to be mounted again; the kernel can't mount below a mount.
    with monkeypatch.context() as patched:
        patched.setattr(live_mounts.mounts, "attach", attach_of_old)
        wish = [f"{data}:/data:idmap", f"{www}:/data/www", f"{www}:/www"]
        host.converged(sandbox("a", volumes=wish))
    assert output(host, "a", "cat", "/data/www/file") == "www"
    result = host.converged(
        sandbox("a", volumes=[f"{data}:/data:idmap,noexec", f"{www}:/data/www"])
    )
    assert output(host, "a", "cat", "/data/www/file", "/data/x") == "wwwkept\n"
    host.kill("a")
    host.converged(sandbox("a", volumes=[f"{data}:/data:idmap,noexec", f"{www}:/data/www"]))
    assert output(host, "a", "cat", "/data/www/file", "/data/x") == "wwwkept\n"
    running = host.pid("a")
    host.converged(sandbox("a"))
    assert (host.pid("a"), points(host)) == (running, before)
    assert not os.path.exists(host.paths.sandbox("a").mounts)


def test_a_read_only_root_takes_a_place_that_it_does_not_have(host: Deployment) -> None:
    data = files(host, "data")
    host.converged(sandbox("a", read_only=True))
    running = host.pid("a")
    host.converged(sandbox("a", read_only=True, volumes=[f"{data}:/new/place:idmap"]))
    output(host, "a", "touch", "/new/place/x")
    assert "Read-only" in run_inside(host, "a", "touch", "/new/x").stderr
    assert host.pid("a") == running


def test_a_sandbox_that_may_mount_keeps_the_flags(host: Deployment) -> None:
    www = files(host)
    may = {"capabilities": ["SYS_ADMIN"], "volumes": [f"{www}:/www:ro"]}
    host.converged(sandbox("a", capabilities=["SYS_ADMIN"]))
    running = host.pid("a")
    host.converged(sandbox("a", **may))
    remount = ["mount", "-o", "remount,bind,rw", "/www"]
    assert run_inside(host, "a", *remount).returncode and host.pid("a") == running
    # Control: where it is not read-only, the sandbox may make it so, and undo that.
    host.converged(sandbox("a", **{**may, "volumes": [f"{www}:/www"]}))
    output(host, "a", "mount", "-o", "remount,bind,ro,nosuid,nodev", "/www")
    output(host, "a", "mount", "-o", "remount,bind,rw,nosuid,nodev", "/www")
    # It takes the mount away, and the kernel gives its id to another one.
    output(host, "a", "sh", "-c", "umount /www; mkdir /m; mount -t tmpfs none /m")
    result = host.converged(sandbox("a", **{**may, "volumes": [f"{www}:/www"]}))
    assert lines(result) == [f"a: mount {www} at /www, which was gone"]
    assert output(host, "a", "cat", "/www/file") == "www"


def test_programs_keep_what_they_have_open(host: Deployment) -> None:
    data = files(host, "data")
    spec = sandbox("a", command=["sh", "-c", "exec 3>/data/log; sleep 1000000"])
    host.converged({**spec, "volumes": [f"{data}:/data:idmap"]})
    result = host.converged(spec)
    assert lines(result) == ["a: unmount /data; programs keep what they have open in the old /data"]
    assert "/data" not in points(host)
    result = host.converged({**spec, "volumes": [f"{data}:/data:idmap"]})
    assert "busy" not in str(lines(result))
    result = host.converged(spec)
    # Nobody has this one open.
    assert lines(result) == ["a: unmount /data"]


def test_what_lies_over_mounts_of_sandlot_is_a_restart(host: Deployment) -> None:
    data = files(host, "data")
    host.converged(sandbox("a"))
    running = host.pid("a")
    result = host.converged(sandbox("a", volumes=[f"{data}:/tmp:idmap"]))
    assert any("restart: its mounts: /tmp is" in line for line in result.actions), result.actions
    assert host.pid("a") != running and points(host)["/tmp"] == 1


@pytest.mark.parametrize("moment", ["before", "attached", "replaced"])
def test_a_killed_run_is_continued(
    host: Deployment, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = files(host, "data")
    old, new = (
        sandbox("a", volumes=[f"{data}:/data:idmap"]),
        sandbox("a", volumes=[f"{data}:/data:idmap,ro"]),
    )
    host.converged(old)
    running = host.pid("a")

    class Killed(BaseException):
        pass

    def die(*_args: object, **_options: object) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        if moment == "before":
            patched.setattr(live_mounts, "change", die)
        elif moment == "attached":
            # The child dies between the new mount and the removal of the old one.
            patched.setattr(live_mounts._Inside, "_unmount", lambda *_args: os._exit(9))
            patched.setattr(mount_state, "note", die)
        else:
            patched.setattr(mount_state, "note", die)
        with pytest.raises(Killed):
            host.run(new)
    host.converged(new)
    assert "Read-only" in run_inside(host, "a", "touch", "/data/x").stderr
    assert (points(host)["/data"], host.pid("a")) == (1, running)
    host.converged(sandbox("a"))
    assert "/data" not in points(host)


def test_links_of_a_tenant_stay_inside(host: Deployment) -> None:
    wish = sandbox("a", volumes=[f"{files(host)}:/play/real/deep"])
    host.converged(sandbox("a"))
    running = host.pid("a")
    output(host, "a", "sh", "-c", "mkdir /play; ln -s / /play/real")
    # Control: a path by string leads to the host's root.
    assert os.path.samefile(f"/proc/{running}/root/play/real", "/")
    host.converged(wish)
    assert points(host)["/deep"] == 1 and not os.path.exists("/deep")
    # It moves the directory above the mount, and what was the way there leads elsewhere.
    output(host, "a", "sh", "-c", "rm /play/real; mkdir -p /play/real/deep")
    host.converged(sandbox("a"))
    assert "/deep" not in points(host)
    output(host, "a", "sh", "-c", "rm -r /play/real; ln -s /dev /play/real")
    result = host.run(wish)
    assert "leads to" in result.failed["a"] and host.pid("a") == running
    assert not [place for place in points(host) if "deep" in place]


def test_a_tenant_that_exchanges_the_target_gains_nothing(host: Deployment) -> None:
    www = files(host)
    spec = sandbox("a", command=["sh", "-c", LOOP])
    host.converged(spec)
    running, before = host.pid("a"), points(host)
    outside = len(mountinfo.by_id(os.getpid()))
    descriptors = len(os.listdir("/proc/self/fd"))
    failed = 0
    for number in range(16):
        wish = [f"{www}:/play/real/deep:ro"] if number % 2 else []
        result = host.run({**spec, "volumes": wish})
        failed += bool(result.failed)
        for text in result.failed.values():
            assert "can't be mounted" in text or "leads to" in text or "kernel" in text, text
        rows = mountinfo.by_id(running).values()
        ours = [row for row in rows if row.root.endswith("/served/www")]
        assert len(ours) <= 1
        assert not any(row.point.startswith(("/proc", "/sys", "/dev")) for row in ours)
    host.converged(spec)
    assert (host.pid("a"), points(host)) == (running, before)
    assert len(mountinfo.by_id(os.getpid())) == outside
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(www) == ["file"] and failed < 16


def test_somebody_who_unmounts_from_outside_is_noticed(host: Deployment) -> None:
    data = files(host, "data")
    spec = sandbox("a", volumes=[f"{data}:/data:idmap"])
    host.converged(spec)
    running = host.pid("a")
    enter = ["nsenter", f"--target={running}", "--mount", "--user", "umount", "/data"]
    subprocess.run(enter, check=True)
    result = host.converged(spec)
    assert lines(result) == [f"a: mount {data} at /data, which was gone"]
    output(host, "a", "touch", "/data/x")
    assert host.pid("a") == running
