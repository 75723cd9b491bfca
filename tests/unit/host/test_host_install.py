# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The units of systemd: what they say, and that systemd is told of every change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandlot.cli import service
from sandlot.errors import HostError
from sandlot.host import facts, install, payload, shared
from sandlot.host.services import systemd
from sandlot.host.services.systemd import BOOT_UNIT, Systemd
from sandlot.launcher.client import UNIT
from sandlot.site import Site


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A host with systemd below any root; the calls that are made of it."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(Site, "has_systemd", True)
    monkeypatch.setattr(systemd, "_systemctl", lambda *words: calls.append(words))
    return calls


def _values(unit: str, key: str) -> list[str]:
    return [
        word
        for line in systemd.UNITS[unit].splitlines()
        if line.startswith(f"{key}=")
        for word in line.partition("=")[2].split()
    ]


def test_the_launcher_stops_before_what_sandboxes_need() -> None:
    """The order of a shutdown is that of the boot turned round."""
    needed = {"local-fs.target", "network.target", "nftables.service", "firewalld.service"}
    assert needed <= set(_values(UNIT, "After"))
    assert _values(UNIT, "ExecStop")[1:] == ["down", "--at-shutdown"]
    # Beside version 1 systemd finds inits in the launcher's own cgroup.
    assert _values(UNIT, "KillMode") == ["process"]


def test_sandboxes_are_up_after_the_filter_of_the_host() -> None:
    assert "nftables.service" in _values(BOOT_UNIT, "After")
    assert _values(BOOT_UNIT, "PartOf") == ["nftables.service"]
    assert _values(BOOT_UNIT, "ReloadPropagatedFrom") == ["nftables.service"]


def test_systemd_learns_of_units_that_change(
    tmp_path: Path, systemctl: list[tuple[str, ...]]
) -> None:
    paths = Site(str(tmp_path))
    install.present(paths, check=False)
    assert systemctl == [
        ("enable", BOOT_UNIT),
        ("daemon-reload",),
        ("start", "--no-block", BOOT_UNIT),
    ]
    text = Path(Systemd(paths).unit(BOOT_UNIT)).read_text()
    assert "WantedBy=multi-user.target nftables.service\n" in text
    assert f"ExecStart={paths.command} up\n" in text
    for wanted in Systemd(paths).boot_links():
        Path(wanted).parent.mkdir(parents=True)
        Path(wanted).symlink_to(Systemd(paths).unit(BOOT_UNIT))
    systemctl.clear()
    assert not install.present(paths, check=False).changed
    Path(Systemd(paths).unit(UNIT)).write_text("[Unit]\n")
    assert install.present(paths, check=False).changed
    assert ("daemon-reload",) in systemctl


def test_a_run_killed_before_the_reload_is_made_good(
    tmp_path: Path, systemctl: list[tuple[str, ...]]
) -> None:
    paths = Site(str(tmp_path))
    install.present(paths, check=False)
    install._announced(paths, lambda: None)
    systemctl.clear()
    assert install.present(paths, check=False).changed
    assert ("daemon-reload",) in systemctl


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"RUNLEVEL": "2"}, False),
        ({"RUNLEVEL": "0"}, True),
        ({"RUNLEVEL": "6"}, True),
        ({"RC_RUNLEVEL": "default"}, False),
        ({"RC_RUNLEVEL": "shutdown"}, True),
    ],
)
def test_who_says_that_the_host_goes_down(
    environment: dict[str, str],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("RUNLEVEL", "RC_RUNLEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert service._shutting_down() is expected


def test_a_python_of_the_distribution_that_is_too_old_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3 8 20\n")
    old.chmod(0o755)
    monkeypatch.setattr(install, "interpreter", lambda: str(old))
    with pytest.raises(HostError) as caught:
        install.present(Site(str(tmp_path / "host")), check=False)
    assert f"{old}, which would run sandboxes, is Python 3.8.20" in str(caught.value)
    assert "Python is 3.9 or later" in str(caught.value)
    assert not (tmp_path / "host").exists()


def test_an_old_pyroute2_is_refused_before_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = {**facts.python(), "pyroute2_version": "0.5.14"}
    monkeypatch.setattr(install.facts, "python", lambda: python)
    with pytest.raises(HostError, match="pyroute2 0.5.14 is too old.*pip install 'pyroute2>=0.7'"):
        install.present(Site(str(tmp_path / "host")), check=False)
    assert not (tmp_path / "host").exists()


def test_every_user_reads_what_an_operator_with_a_strict_umask_installs(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        (tmp_path / "host").mkdir(mode=0o755)
        (tmp_path / "host").chmod(0o755)
        install.present(Site(str(tmp_path / "host")), check=False)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    installed = [*(tmp_path / "host/usr").rglob("*"), tmp_path / "host/usr"]
    assert [path for path in installed if path.name == "__pycache__"]
    modes = {path: path.stat().st_mode & (0o055 if path.is_dir() else 0o044) for path in installed}
    wanted = {path: 0o055 if path.is_dir() else 0o044 for path in installed}
    assert modes == wanted


def test_the_engine_before_stays_for_modules_that_import_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "write", lambda *_words: None)
    site = Site(str(tmp_path))
    os.makedirs(site.lib)
    engines = [{"sandlot/__init__.py": b"", "sandlot/own.py": b"%d" % n} for n in range(3)]
    places = []
    for files in engines:
        payload.install(site, files)
        places.append(payload.current(site))
        kept = [files["sandlot/own.py"] for files in engines[: len(places)]][-2:]
        assert [Path(place, "own.py").read_bytes() for place in places[-2:]] == kept
    assert not os.path.exists(places[0])


def test_the_engine_that_runs_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(str(tmp_path))
    assert not payload.is_installed(site)
    payload.install(site, payload.sources())
    assert payload.is_installed(site)
    monkeypatch.setattr(payload.handover, "__file__", f"{payload.current(site)}/handover.py")
    with monkeypatch.context() as patch:
        patch.setattr(payload, "sources", dict)
        assert payload.is_installed(site)
    with open(f"{payload.current(site)}/site.py", "ab") as handle:
        handle.write(b"#")
    assert not payload.is_installed(site)
