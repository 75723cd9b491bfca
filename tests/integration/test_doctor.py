# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot doctor: well hosts are well, each fault is found and its remedy works."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot import images
from sandlot.host import doctor, facts, probe
from sandlot.launcher.client import Launcher

pytestmark = needs_root


def findings(host: Deployment) -> dict[str, doctor.Finding]:
    found = doctor.examine(host.paths, facts.gather(host.paths))
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each.status == doctor.OK or each.remedy, each
    return {each.name: each for each in found}


def wrong(host: Deployment) -> dict[str, str]:
    return {n: each.status for n, each in findings(host).items() if each.status != doctor.OK}


def test_a_deployed_host_is_well_and_looking_changes_nothing(host: Deployment) -> None:
    host.converged(sandbox("a"))
    assert wrong(host) == {}
    assert host.run(sandbox("a")).actions == []


def test_the_command(host: Deployment) -> None:
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    command = [host.paths.command, "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("STATUS") and "cgroup controllers" in done.stdout
    shutil.rmtree(images.lookup(host.paths, "busybox").root)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "run sandbox_rootfs again" in done.stdout


def test_old_programs(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    python = {**facts.python(), "pyroute2_version": "0.5.14"}
    monkeypatch.setattr(facts, "python", lambda: python)
    assert wrong(host) == {"version of pyroute2": doctor.FAILURE}


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("quiet cgroup.memory=nosocket,nokmem", doctor.FAILURE),
        ("cgroup.memory=nobpf", doctor.OK),
        ("memory=nosocket", doctor.OK),
    ],
)
def test_memory_that_is_not_counted(
    host: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, status: str
) -> None:
    (tmp_path / "cmdline").write_text(f"root=/dev/vda {options} panic=-1\n")
    monkeypatch.setattr(doctor, "CMDLINE", str(tmp_path / "cmdline"))
    assert findings(host)["memory accounting"].status == status


def test_a_launcher_that_died(host: Deployment) -> None:
    host.converged(sandbox("a"))
    Launcher(host.paths).quit()
    eventually(lambda: Launcher(host.paths).ping() is None)
    assert wrong(host) == {"launcher": doctor.WARNING}
    host.run(sandbox("a"))
    assert wrong(host) == {}


def test_damaged_records_and_orphans(host: Deployment) -> None:
    host.converged(sandbox("a"))
    Path(host.paths.sandbox("a").record).write_text("{")
    os.makedirs(f"{host.paths.run}/stray/etc")
    assert wrong(host) == {"record of a": doctor.FAILURE, "orphans": doctor.WARNING}
    host.run(purge=True)
    assert wrong(host) == {}


def test_a_damaged_record_of_an_image(host: Deployment) -> None:
    path = Path(host.paths.images, "busybox.json")
    path.write_text("{")
    assert wrong(host) == {"images": doctor.FAILURE}
    path.unlink()


def test_foreign_ids_in_the_pool(host: Deployment) -> None:
    host.converged(sandbox("a"))
    first = host.info("a")["ids"]["uid"]
    lines = Path(host.paths.subuid).read_text()
    Path(host.paths.subuid).write_text(f"{lines}somebody:{first}:10\n")
    assert wrong(host) == {"subordinate ids": doctor.FAILURE}
    Path(host.paths.subuid).write_text(lines)
    assert wrong(host) == {}


def test_a_host_without_user_namespaces(
    host: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "max").write_text("0\n")
    monkeypatch.setattr(probe, "USER_NAMESPACES", str(tmp_path / "max"))
    assert wrong(host) == {"user namespaces": doctor.FAILURE}


def test_what_a_kernel_lacks(host: Deployment) -> None:
    known = facts.gather(host.paths)
    known["kernel"] = "5.10.0-30-amd64"
    known["cgroups"] = {"versions": [2], "controllers": ["cpu", "io"], "shown": []}
    found = {each.name: each for each in doctor.examine(host.paths, known)}
    assert found["kernel"].status == doctor.FAILURE
    assert found["cgroup controllers"].remedy.startswith("memory pids missing")
    assert found["cgroup controller cpuset"].status == doctor.WARNING
    assert found["cgroups inside"].detail.startswith("hidden")


def test_restrictions_of_distributions_are_explained(
    host: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernel/seccomp").mkdir(parents=True)
    (tmp_path / "kernel/seccomp/actions_avail").write_text("kill_process errno allow\n")
    (tmp_path / "kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    monkeypatch.setattr(doctor, "SYSCTLS", str(tmp_path))
    found = findings(host)["kernel.apparmor_restrict_unprivileged_userns"]
    assert found.status == doctor.OK and "nothing has to be changed" in found.detail


def test_a_full_disk(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FULL", -1.0)
    assert wrong(host) == {"space for state": "warning", "space for runtime": "warning"}
