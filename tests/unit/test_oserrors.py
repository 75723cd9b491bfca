# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the operating system refuses is told with its path and a remedy, wherever it happens."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sandlot import converge, oserrors, shell, store
from sandlot.errors import HostError
from sandlot.network.bridge import nft
from sandlot.sandbox import layers, runtime
from sandlot.site import Site


class Failed(Exception):
    pass


class FakeModule:
    params: dict[str, Any] = {}
    check_mode = False

    def exit_json(self, **kwargs: Any) -> NoReturn:
        raise AssertionError(kwargs)

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn:
        raise Failed(msg)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free space and inodes"),
        (errno.EIO, "the disk or its file system fails"),
        (errno.EPERM, "lsattr"),
        (errno.ENOMEM, "free memory"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ELOOP, "remove the cause"),
    ],
)
def test_a_module_fails_with_path_and_remedy(
    monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def action(_module: shell.Module, _paths: Site) -> shell.Json:
        raise OSError(code, os.strerror(code), "/a/path")

    with pytest.raises(Failed) as failure:
        shell.run(FakeModule(), action)
    complaint = str(failure.value)
    assert complaint.startswith(f"/a/path: {os.strerror(code)}; ") and remedy in complaint


def test_a_module_names_what_failed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    failed = {"db": "too old", "web": "web: stop: no"}
    done = converge.Result(False, [], {}, {}, {}, failed=failed)
    lines = "all 2 sandboxes failed\ndb: too old\nweb: stop: no"
    with pytest.raises(Failed, match=f"^{lines}$"):
        shell.run(FakeModule(), lambda _module, _paths: converge.return_values(done))


def test_a_failed_stop_is_as_explained() -> None:
    """The launcher's answer has the number by which its client finds the remedy."""
    error = OSError(errno.EPERM, os.strerror(errno.EPERM), "/a/path")
    failure = runtime.explained(Site("/root").sandbox("web"), "stop", error)
    assert (failure.message, failure.code) == (
        "web: stop: Operation not permitted (/a/path)",
        errno.EPERM,
    )


def test_descriptors_are_not_taken_for_paths() -> None:
    assert oserrors.text(OSError(errno.EIO, "Input/output error", 5)) == "Input/output error"
    assert str(oserrors.explained(OSError(errno.EIO, "broken"), "web: prepare")).startswith(
        "web: prepare: broken; "
    )


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as failure:
        store.write(str(tmp_path / "record.json"), {})
    assert failure.value.filename == str(tmp_path / "record.json")
    assert os.listdir(tmp_path) == []


def test_a_layer_that_cannot_be_seen_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Site(str(tmp_path)).sandbox("web")
    assert not layers.is_whole(sandbox)

    def broken(path: str, **_options: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "stat", broken)
    with pytest.raises(OSError, match="Input/output error"):
        layers.is_whole(sandbox)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [(-9, ""), (127, "error while loading shared libraries"), (1, "Error: Cannot allocate memory")],
)
def test_tables_that_cannot_be_listed_are_not_taken_for_missing(
    monkeypatch: pytest.MonkeyPatch, code: int, complaint: str
) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, "", complaint)

    monkeypatch.setattr(nft, "run", run)
    monkeypatch.setattr(nft.nftables, "generation", lambda: 1)
    monkeypatch.setattr(nft, "_program", lambda: "/usr/sbin/nft")
    with pytest.raises(HostError, match="can't be listed"):
        nft.observe(Site("/nowhere"))


@pytest.mark.parametrize(
    "complaint", ["Error: No such file or directory\n", "Operation not supported"]
)
def test_tables_that_are_not_there(monkeypatch: pytest.MonkeyPatch, complaint: str) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", complaint)

    monkeypatch.setattr(nft, "run", run)
    monkeypatch.setattr(nft.nftables, "generation", lambda: 1)
    monkeypatch.setattr(nft, "_program", lambda: "/usr/sbin/nft")
    assert nft.observe(Site("/nowhere")).present == ()
