# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Paths of the host: links of root are followed, and whatever others can change is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot.kernel import trusted_path

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def place(path: str) -> str:
    fd = trusted_path.opened(path)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def test_a_path_of_root_is_opened_and_its_links_are_followed() -> None:
    assert place("/") == "/"
    assert place("/dev/../dev//null") == "/dev/null"


def test_errors_name_the_path() -> None:
    for path, error in (("/dev/none", FileNotFoundError), ("/dev/null/x", NotADirectoryError)):
        with pytest.raises(error) as caught:
            trusted_path.opened(path)
        assert caught.value.filename == path


@root_only
def test_a_path_that_others_can_change_is_refused(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "open").mkdir()
    for mode, ok in ((0o755, True), (0o777, False), (0o775, False), (0o1777, True)):
        (tmp_path / "open").chmod(mode)
        (tmp_path / "open/link").unlink(missing_ok=True)
        (tmp_path / "open/link").symlink_to("../real")
        (tmp_path / "real").touch()
        if ok:
            assert place(f"{tmp_path}/open/link") == f"{tmp_path}/real"
        else:
            with pytest.raises(PermissionError, match="other than root can change"):
                trusted_path.opened(f"{tmp_path}/open/link")
    # Anybody may put a link of their own into a sticky directory.
    os.chown(tmp_path / "open/link", 1000, 1000, follow_symlinks=False)
    with pytest.raises(PermissionError, match="other than root can change"):
        trusted_path.opened(f"{tmp_path}/open/link")
    os.chown(tmp_path / "open", 1000, 1000)
    with pytest.raises(PermissionError):
        trusted_path.opened(f"{tmp_path}/open/link")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(OSError):
        trusted_path.opened(f"{tmp_path}/a")
