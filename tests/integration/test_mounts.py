# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Volumes, paths of the host and file systems in memory, as a sandbox sees them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from sandlot import converge, volumes
from sandlot.errors import SpecError
from sandlot.kernel import mountinfo
from sandlot.launcher.client import Launcher

pytestmark = needs_root


def volume(host: Deployment, name: str) -> Path:
    """The files of a volume, on the host."""
    listed = volumes.normalise([{"name": name}])
    converge.converge(host.paths, converge.request(None, volumes=listed))
    return Path(host.paths.volume(name).data)


def run(host: Deployment, name: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's script in a sandbox."""
    command = [host.paths.command, "exec", name, "--", "sh", "-c", script]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)


def output(host: Deployment, name: str, script: str) -> str:
    done = run(host, name, script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def options_of(host: Deployment, name: str, path: str) -> list[list[str]]:
    """Options of the mounts at a path and below, as the kernel tells them."""
    lines = Path(f"/proc/{host.pid(name)}/mountinfo").read_text().splitlines()
    rows = [line.split() for line in lines]
    return [row[5].split(",") for row in rows if f"{row[4]}/".startswith(f"{path}/")]


def source(host: Deployment, name: str) -> Path:
    """A directory of the host for bind mounts, below the moved root."""
    path = Path(host.paths.root, name)
    path.mkdir()
    return path


def test_sandboxes_share_a_volume_with_ids_of_their_own(host: Deployment) -> None:
    data = volume(host, "data")
    host.converged(
        sandbox("a", volumes=["data:/data"], user="33"),
        sandbox("b", volumes=["data:/srv/d/eep:ro"]),
    )
    os.chown(data, 33, 33)
    output(host, "a", "echo hello > /data/file")
    status = (data / "file").stat()
    assert (status.st_uid, status.st_gid) == (33, 33)
    assert output(host, "b", "stat -c %u /srv/d/eep/file; cat /srv/d/eep/file") == "33\nhello"
    assert "Read-only" in run(host, "b", "echo x > /srv/d/eep/file").stderr
    assert options_of(host, "a", "/data") == [["rw", "nosuid", "nodev", "relatime", "idmapped"]]
    (entry,) = json.loads(Path(host.paths.sandbox("a").mounts).read_text())["mounts"]
    number, *_ = entry.pop("mounted")
    assert entry == {"type": "volume", "target": "/data", "source": "data", "path": str(data)}
    assert mountinfo.by_id(host.pid("a"))[number].point == "/data"


def test_paths_of_the_host(host: Deployment) -> None:
    www = source(host, "www")
    (www / "page").write_text("page\n")
    www.chmod(0o777)
    binds = [f"{www}:/www:ro,noexec", f"{www}/page:/etc/page", f"{www}:/own:idmap"]
    host.converged(sandbox("a", volumes=binds))
    assert output(host, "a", "cat /www/page /etc/page") == "page\npage"
    assert "Read-only" in run(host, "a", "touch /www/x").stderr
    assert "noexec" in options_of(host, "a", "/www")[0]
    # Not mapped: nobody of the sandbox owns what root of the host owns.
    assert output(host, "a", "stat -c %u /www/page; stat -c %u /own/page") == "65534\n0"
    output(host, "a", "echo more >> /own/page")
    assert (www / "page").read_text() == "page\nmore\n"
    assert [line for line in host.info("a")["relaxed"] if line.startswith("volumes")] == [
        f"volumes: {entry}" for entry in (binds[2], binds[0], binds[1])
    ]


def test_what_is_mounted_below_is_read_only_too(host: Deployment) -> None:
    top = source(host, "top")
    (top / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "none", top / "below"], check=True)
    try:
        host.converged(sandbox("a", volumes=[f"{top}:/ro:ro", f"{top}:/rw"]))
        assert "Read-only" in run(host, "a", "touch /ro/below/x").stderr
        output(host, "a", "touch /rw/below/x")
        assert {"ro", "nosuid", "nodev"} <= set(options_of(host, "a", "/ro")[1])
    finally:
        host.run(purge=True)
        subprocess.run(["umount", top / "below"], check=True)


def test_mounts_in_mounts(host: Deployment) -> None:
    data, www = volume(host, "data"), source(host, "www")
    (www / "page").touch()
    os.chown(data, 0, 0)
    mounts: list[dict[str, Any]] = [
        {"type": "tmpfs", "target": "/data/cache/tmp", "tmpfs_size": "1m", "tmpfs_mode": "700"},
        {"type": "bind", "source": str(www), "target": "/data/cache", "read_only": False},
        {"source": "data", "target": "/data"},
        {"source": "data", "target": "/sub", "subpath": "inner"},
    ]
    (data / "inner").mkdir()
    (www / "tmp").mkdir()
    host.converged(sandbox("a", mounts=mounts, read_only=True))
    assert (
        output(host, "a", "ls /data /data/cache")
        == "/data:\ncache\ninner\n\n/data/cache:\npage\ntmp"
    )
    output(host, "a", "touch /data/cache/tmp/x /sub/y")
    assert (data / "inner/y").exists()
    assert "size=1024k" in output(host, "a", "grep /data/cache/tmp /proc/mounts")


def refused(host: Deployment, *volumes: str, **options: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        host.run(sandbox("a", volumes=list(volumes)), **options)
    assert caught.value.hint and str(caught.value).startswith("sandbox 'a': volumes: ")
    return caught.value


def test_what_the_host_can_not_mount_is_refused(host: Deployment) -> None:
    top = source(host, "top")
    (top / "link").symlink_to(top)
    (top / "proc").mkdir()
    assert "does not exist" in str(refused(host, f"{top}/none:/x"))
    assert "a link on the way" in str(refused(host, f"{top}/link/proc:/x"))
    assert "sandlot's own" in str(refused(host, f"{host.paths.state}/images:/x"))
    assert f"holds {host.paths.state}" in str(refused(host, f"{host.paths.root}/var:/x"))
    subprocess.run(["mount", "-t", "proc", "none", top / "proc"], check=True)
    try:
        for path in (top, top / "proc/sys"):
            assert f"the kernel's proc at {top}/proc" in str(refused(host, f"{path}:/x"))
    finally:
        subprocess.run(["umount", top / "proc"], check=True)
    layers = f"lowerdir={source(host, 'one')}:{source(host, 'two')}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", top / "proc"], check=True)
    try:
        assert "can't map ids" in str(refused(host, f"{top}/proc:/x:idmap"))
        assert not host.run(sandbox("a", volumes=[f"{top}/proc:/x:ro"])).failed
    finally:
        host.run(purge=True)
        subprocess.run(["umount", top / "proc"], check=True)
    # An earlier task would make it.
    assert host.run(sandbox("a", volumes=[f"{top}/none:/x"]), check=True).changed
    assert not Path(host.paths.sandbox("a").state).exists()


def test_a_source_that_vanishes_fails_the_start_and_says_so(host: Deployment) -> None:
    top = source(host, "top")
    host.converged(sandbox("a", volumes=[f"{top}:/x:ro"]))
    top.rmdir()
    # Its tenant may have done that to another sandbox.
    assert host.converged(sandbox("a", volumes=[f"{top}:/x:ro"])).actions == []
    assert not Launcher(host.paths).stop(["a"])
    failures = Launcher(host.paths).start(["a"])
    assert f"bind mount of {top}: does not exist" in failures["a"].message
    assert "make it first" in failures["a"].hint


def test_a_directory_that_nobody_inside_may_write_is_a_warning(host: Deployment) -> None:
    top = source(host, "top")
    (top / "entry").mkdir()
    volumes = [f"{top}:/a"]
    first = host.run(sandbox("a", volumes=volumes))
    ids = host.info("a")["ids"]
    text = f"no id of its own (host ids {ids['uid']} to {ids['uid'] + 65535}) may write there"
    assert [text in line for line in first.warnings] == [True]
    assert host.run(sandbox("a", volumes=[f"{top}:/a:ro"])).warnings == []
    as_root = sandbox("a", volumes=[f"{top}:/a:idmap"])
    assert ["set-user-id" in line for line in host.run(as_root).warnings] == [True]
    mode = os.stat(host.paths.root).st_mode
    os.chmod(host.paths.root, 0o700)
    assert host.run(as_root).warnings == []
    os.chmod(host.paths.root, mode)
    os.chown(top / "entry", ids["uid"] + 33, 0)
    assert host.run(sandbox("a", volumes=volumes)).warnings == []


def test_mounts_of_the_host_appear_later_where_asked(host: Deployment) -> None:
    top = source(host, "top")
    for name in ("one", "two"):
        (top / name).mkdir()
    subprocess.run(["mount", "--bind", top, top], check=True)
    subprocess.run(["mount", "--make-shared", top], check=True)
    try:
        host.converged(sandbox("a", volumes=[f"{top}:/slave:rslave", f"{top}:/private"]))
        subprocess.run(["mount", "-t", "tmpfs", "none", top / "two"], check=True)
        (top / "two/file").touch()
        assert output(host, "a", "ls /slave/two; ls /private/two") == "file"
        assert len(options_of(host, "a", "/private")) == 1
    finally:
        host.run(purge=True)
        subprocess.run(["umount", "--recursive", top], check=True)


def test_a_read_only_root_has_what_programs_write_to(host: Deployment) -> None:
    host.converged(
        sandbox("a", read_only=True), sandbox("b", read_only=True, tmpfs=["/run:size=1m"])
    )
    for path in ("/run", "/tmp", "/var/tmp"):
        output(host, "a", f"echo x > {path}/file")
    assert "Read-only" in run(host, "a", "touch /var/x").stderr
    assert output(host, "a", "stat -c %a /run /var/tmp") == "755\n1777"
    assert "size=1024k" in output(host, "b", "grep ' /run ' /proc/mounts")
