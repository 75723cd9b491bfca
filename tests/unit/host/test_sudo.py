# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The link by which sudo finds the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot.host import install, payload, sudo
from sandlot.site import Site

NARROW = 'Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"\n'
WIDE = 'Defaults\tsecure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"\n'


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode takes a second each time, and is no matter of sudo's."""
    monkeypatch.setattr(payload, "_compile", lambda _directory: None)


def site(top: Path, sudoers: str, **extra: str) -> Site:
    (top / "etc/sudoers.d").mkdir(parents=True)
    (top / "etc/sudoers").write_text(sudoers)
    for name, text in extra.items():
        (top / "etc/sudoers.d" / name).write_text(text)
    return Site(str(top))


@pytest.mark.parametrize(
    ("sudoers", "extra", "want"),
    [
        (NARROW, {}, True),
        (WIDE, {}, False),
        ("# " + NARROW, {}, False),
        ("Defaults env_reset\n", {}, False),
        (NARROW, {"local": WIDE}, False),
        (NARROW, {"local.bak": WIDE, "local~": WIDE}, True),
        (WIDE, {"narrow": NARROW}, True),
    ],
)
def test_only_where_sudo_would_not_find_it(
    tmp_path: Path, sudoers: str, extra: dict[str, str], want: bool
) -> None:
    host = site(tmp_path, sudoers, **extra)
    install.present(host, check=False)
    link = tmp_path / "usr/sbin/sandlot"
    assert os.path.lexists(link) == want
    if want:
        assert link.samefile(host.command)
    assert not install.present(host, check=False).changed
    # A teardown removes these; it needs root.
    assert sudo.links(host) == [str(link)] * want


def test_a_file_of_others_stays(tmp_path: Path) -> None:
    host = site(tmp_path, NARROW)
    (tmp_path / "usr/sbin").mkdir(parents=True)
    other = tmp_path / "usr/sbin/sandlot"
    other.write_text("of others\n")
    install.present(host, check=False)
    assert sudo.links(host) == []
    assert other.read_text() == "of others\n"


def test_a_host_without_sudo(tmp_path: Path) -> None:
    install.present(Site(str(tmp_path)), check=False)
    assert not (tmp_path / "usr/sbin").exists()
