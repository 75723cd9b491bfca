# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Completion and the manual page, where shells and man look for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot.cli import completion, manual
from sandlot.host import install, payload, shared
from sandlot.site import Site

TEXTS = {
    "usr/local/share/bash-completion/completions/sandlot": completion.bash,
    "usr/local/share/man/man8/sandlot.8": manual.page,
    "usr/local/share/zsh/site-functions/_sandlot": completion.zsh,
    "etc/fish/completions/sandlot.fish": completion.fish,
}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode takes a second each time, and is no matter of these."""
    monkeypatch.setattr(payload, "_compile", lambda _directory: None)


def test_links_lead_to_the_texts_of_the_installed_engine(tmp_path: Path) -> None:
    site, share = Site(str(tmp_path)), tmp_path / "usr/local/share"
    (share / "man").mkdir(parents=True)
    (tmp_path / "etc/fish").mkdir(parents=True)
    install.present(site, check=False)
    for path, text in TEXTS.items():
        assert (tmp_path / path).read_text() == text()
        assert os.stat(tmp_path / path).st_mode & 0o777 == 0o644
    assert not install.present(site, check=False).changed
    assert shared.links(site) == [str(tmp_path / path) for path in TEXTS]
    # Those that were there stay; a teardown, which needs root, removes the others.
    made = shared.directories(site)
    assert made == sorted(made, key=len, reverse=True) and len(made) == 6
    assert {str(share), str(share / "man"), str(tmp_path / "etc/fish")}.isdisjoint(made)


def test_no_host_gets_the_first_file_of_fish(tmp_path: Path) -> None:
    install.present(Site(str(tmp_path)), check=False)
    assert not (tmp_path / "etc/fish").exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    site, share = Site(str(tmp_path)), tmp_path / "usr/local/share"
    page = share / "man/man8/sandlot.8"
    page.parent.mkdir(parents=True)
    page.write_text("theirs")
    install.present(site, check=False)
    assert page.read_text() == "theirs" and str(page) not in shared.links(site)
    assert not install.present(site, check=False).changed


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    site, share = Site(str(tmp_path)), tmp_path / "usr/local/share"
    install.present(site, check=False)
    before = shared.directories(site)
    path = share / "zsh/site-functions/_sandlot"
    path.unlink()
    path.parent.rmdir()
    assert install.present(site, check=True).actions[0] == f"runtime: link {path}"
    install.present(site, check=False)
    assert shared.directories(site) == before
