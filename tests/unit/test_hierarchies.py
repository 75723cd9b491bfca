# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The hierarchies of cgroups that a sandbox is shown."""

from __future__ import annotations

import errno
import os

import pytest
from sandlot.kernel import hierarchies
from sandlot.kernel.mountinfo import seen_by

PROC_CGROUP = """\
9:name=systemd:/sandlot/web
8:pids:/sandlot/web
6:devices:/sandlot/web
5:memory:/
4:cpu,cpuacct:/docker/1/sandlot/web
3:cpuset:/sandlot/webb
0::/sandlot/web
"""


@pytest.mark.parametrize(
    ("controllers", "shown"),
    [
        (None, ["pids", "cpu,cpuacct"]),
        ("hugetlb", ["pids", "cpu,cpuacct"]),
        ("io memory", ["pids", "cpu,cpuacct", ""]),
    ],
)
def test_only_hierarchies_that_it_joined_are_shown(tmp_path, monkeypatch, controllers, shown):
    """In another one, the root of its cgroup namespace may be the host's."""
    directory = tmp_path / "sandlot" / "web"
    directory.mkdir(parents=True)
    if controllers is not None:
        (directory / "cgroup.controllers").write_text(f"{controllers}\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(PROC_CGROUP)
    monkeypatch.setattr(hierarchies, "PROC", str(tmp_path))
    assert hierarchies.joined(7, ["/sys/fs/cgroup/pids/sandlot/web", str(directory)]) == shown


def test_a_refused_hierarchy_leaves_none(monkeypatch):
    closed, error = [], [PermissionError(errno.EPERM, "no")]

    def new_mount(kind, options, attributes):
        if "memory" in options:
            raise error[-1]
        return 77

    monkeypatch.setattr(hierarchies.mounts, "new_mount", new_mount)
    monkeypatch.setattr(hierarchies.os, "close", closed.append)
    assert hierarchies.mounted(["pids", "memory"], 0) == [] and closed == [77]
    error.append(OSError(errno.ENOMEM, "no memory"))
    with pytest.raises(OSError, match="no memory"):
        hierarchies.mounted(["pids", "memory"], 0)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.EINVAL])
def test_a_process_that_ends_sees_no_mount(monkeypatch, number):
    def ended(*_path, **_how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", ended)
    assert seen_by(1) == []
