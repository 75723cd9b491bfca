# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""disk_size by a file system in a file, for hosts without project quotas; tests/vm has those."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot import converge, volumes
from sandlot.converge import kept, restoring
from sandlot.converge.kept_model import SnapshotRequest
from sandlot.errors import SpecError
from sandlot.host import doctor, facts
from sandlot.kernel import mount_points
from sandlot.kernel.trees import remove_tree
from sandlot.sandbox import health
from test_exhausted import small_host

pytestmark = needs_root
MIB = 1 << 20
FAILING = ["sh", "-c", "exit 7"]


def sized(size: str | None, **options: Any) -> dict[str, Any]:
    return sandbox("a", disk_size=size, **options)


def run_inside(host: Deployment, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [host.paths.command, "exec", name, "--", *words]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)


def size_inside(host: Deployment) -> int:
    """Mebibytes, as df shows them in the sandbox."""
    shown = run_inside(host, "a", "df", "-m", "/").stdout.split()
    return int(shown[shown.index("/") - 4])


def write(host: Deployment, name: str, path: str, mebibytes: int) -> str:
    """The complaint of a write, "" for none."""
    count = f"count={mebibytes}"
    return run_inside(host, name, "dd", "if=/dev/zero", f"of={path}", "bs=1M", count).stderr


def loop_devices_of(host: Deployment) -> list[str]:
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [file.read_text() for file in files if host.paths.state in file.read_text()]


def mounted(host: Deployment) -> list[str]:
    return [path for path in mount_points.within(host.paths.state) if path.endswith("layer")]


def test_a_full_layer_leaves_room_for_others() -> None:
    """The control is the same sandbox without a size: it takes the disk from all."""
    hog, web = sandbox("a"), sandbox("web")
    with small_host(share=0) as host:
        for size, complaint in ((None, "No space left on device"), ("16m", "")):
            assert not host.run({**hog, "disk_size": size}, web).failed
            assert "No space left" in write(host, "a", "/fill", 64)
            assert complaint in write(host, "web", "/mine", 4)
            free = os.statvfs(host.paths.root)
            assert (free.f_bavail * free.f_frsize > 4 * MIB) is (size is not None)
            if size:
                assert "No space left" not in write(host, "web", "/mine", 4)
                assert 8 <= size_inside(host) <= 16
                recovers_from_a_full_disk(host, {**hog, "disk_size": size}, web)
            gone = (sandbox(name, state="absent") for name in ("a", "web"))
            assert not host.run(*gone).failed
        assert loop_devices_of(host) == []


def recovers_from_a_full_disk(host: Deployment, *specs: dict[str, Any]) -> None:
    """The file of a file system is sparse: somebody else can take the blocks that it lacks."""
    run_inside(host, "a", "sh", "-c", "rm /fill /more; sync")
    filler = f"{host.paths.root}/fill"
    with open(filler, "wb") as file:
        free = os.statvfs(host.paths.root)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - MIB)
    script = "dd if=/dev/zero of=/data bs=1M count=8 conv=fsync; touch /new; sync; touch /newer"
    eventually(lambda: "Read-only" in run_inside(host, "a", "sh", "-c", script).stderr)
    os.unlink(filler)
    result = host.converged(*specs)
    assert any("an error has made read-only" in line for line in result.actions), result.actions
    assert "No space" not in write(host, "a", "/data", 8)


def test_changes_keep_the_content_and_are_noticed(host: Deployment) -> None:
    layer = host.paths.sandbox("a")
    host.converged(sized(None))
    assert not os.path.exists(layer.layer_image)
    assert not write(host, "a", "/data", 6).count("No space")
    run_inside(host, "a", "sh", "-c", "rm /etc/passwd; mkdir /d; ln -s /data /d/link")
    for size in ("16m", "64m", "32m"):
        result = host.converged(sized(size))
        assert [line for line in result.actions if line.startswith("a: layer: ")], result.actions
        assert "a: restart: its layer gets another size (restart)" in result.actions
        assert 0.6 * int(size[:-1]) <= size_inside(host) <= int(size[:-1])
        shown = run_inside(host, "a", "sh", "-c", "wc -c < /data; readlink /d/link; ls /etc").stdout
        assert shown.split()[:2] == [str(6 * MIB), "/data"] and "passwd" not in shown
    assert not write(host, "a", "/more", 14).count("No space")
    disk = host.info("a")["disk"]
    assert (disk["way"], disk["size"]) == ("file", 32 * MIB) and disk["used"] > 20 * MIB
    pid = host.pid("a")
    with pytest.raises(SpecError, match="'a': disk_size: '16m' is less than what it holds"):
        host.run(sized("16m"))
    assert host.pid("a") == pid and host.run(sized("32m")).actions == []
    # Somebody unmounts it, while the sandbox goes on.
    subprocess.run(["umount", layer.layer], check=True)
    found = {entry.name: entry for entry in doctor.examine(host.paths, facts.gather(host.paths))}
    assert found["sizes in force"].detail == "layer of a: mount the file system"
    assert host.converged(sized("32m")).actions == ["a: layer: mount the file system"]
    assert host.pid("a") == pid
    assert Path(layer.upper, "data").stat().st_size == 6 * MIB
    result = host.converged(sized(None))
    assert "a: layer: move out of the file system that limits it (restart)" in result.actions
    assert Path(layer.upper, "data").stat().st_size == 6 * MIB
    assert not os.path.exists(layer.layer_image) and mounted(host) == []
    host.converged(sandbox("a", state="absent"))
    assert loop_devices_of(host) == []


def test_a_volume_that_somebody_unmounts_is_never_taken_for_an_empty_one(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "WATCH", 0.0)
    monkeypatch.setattr(health, "STEADY_SECONDS", 0.1)
    spec = sandbox(
        "a", volumes=["data:/data"], snapshot_before=["rebuild"], restart_policy="always"
    )
    declared = volumes.normalise([{"name": name, "size": "16m"} for name in ("data", "unused")])
    # Mounted before the directory of all volumes is.
    assert not host.run(volumes=declared).failed
    assert not host.run(spec).failed
    row, kept_rows = Path(host.paths.volume("data").data, "row"), Path(host.paths.snapshots, "a")
    row.write_text("1")
    # The launcher starts nothing on what lies under the mount, and the next run mounts it.
    subprocess.run(["umount", "--lazy", row.parent], check=True)
    found = {entry.name: entry for entry in doctor.examine(host.paths, facts.gather(host.paths))}
    assert found["sizes in force"].detail == "volume data: mount the file system"
    host.kill("a")
    eventually(lambda: host.info("a")["state"] == "crashed")
    assert os.listdir(row.parent) == []
    host.run(spec, volumes=declared)
    assert host.inside("a", "/data/row") == "1"
    # A copy for a snapshot, before a rebuild, and of what a restore replaces.
    stopped = {**spec, "state": "stopped"}
    for number, what in enumerate(("create", "rebuild", "restore"), 2):
        host.run(stopped)
        row.write_text(str(number))
        subprocess.run(["umount", row.parent], check=True)
        before = set(kept_rows.glob("*"))
        if what == "rebuild":
            host.run({**stopped, "recreate": True})
        else:
            kept.carry_out(host.paths, SnapshotRequest("a", "s", what))
        (made,) = set(kept_rows.glob("*")) - before
        assert (made / "volumes/data/row").read_text() == str(number), what
    assert row.read_text() == "2"
    assert len(loop_devices_of(host)) == 2
    gone = volumes.normalise([{"name": "unused", "state": "absent"}])
    assert not host.run(volumes=gone).failed
    assert len(loop_devices_of(host)) == 1
    gone = volumes.normalise([{"name": "data", "state": "absent", "force": True}])
    assert not host.run(sandbox("a", state="absent"), volumes=gone).failed
    remove_tree(host.paths.snapshots)
    assert loop_devices_of(host) == []


def test_boots_rebuilds_and_removals(host: Deployment) -> None:
    layer = host.paths.sandbox("a")
    host.converged(sized("16m"))
    run_inside(host, "a", "touch", "/mark")
    assert mounted(host) == [layer.layer]
    host.reboot()
    subprocess.run(["umount", layer.layer], check=True)
    assert loop_devices_of(host) == []
    assert not converge.up(host.paths).failed
    assert Path(layer.upper, "mark").exists() and mounted(host) == [layer.layer]
    # A rebuild that fails puts the old file system back.
    failed = host.run(sized("24m", command=FAILING), recreate=True)
    assert "rolled back" in str(failed.failed["a"])
    assert Path(layer.upper, "mark").exists() and mounted(host) == [layer.layer]
    host.converged(sized("16m"))
    result = host.converged(sized("24m"), recreate=True)
    assert not Path(layer.upper, "mark").exists() and mounted(host) == [layer.layer]
    assert 12 <= size_inside(host) <= 24, result.actions
    assert not host.run(purge=True).failed
    assert mounted(host) == [] and loop_devices_of(host) == []
    assert not os.path.exists(layer.state)
