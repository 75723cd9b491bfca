# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Copies of the host's Python that run elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandlot.errors import HostError, SandlotError
from sandlot.images import programs
from sandlot.kernel.elf import NotElf
from sandlot.reach import elf_paths, host_python, python_copy
from sandlot.reach.python_place import LINKER, PLACE, PROGRAM
from sandlot.site import Site

PYTHON = os.path.realpath(sys.executable)


@pytest.fixture
def short() -> Iterator[str]:
    """A directory whose path fits twice into the place of a linker's."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as directory:
        yield directory


def test_a_program_runs_with_libraries_and_linker_of_its_own(short: str) -> None:
    linker = programs.linker(PYTHON)
    for library in programs.needed(linker, PYTHON):
        content = bytearray(Path(library).read_bytes())
        elf_paths.forget_directories(content)
        Path(short, os.path.basename(library)).write_bytes(content)
    os.mkdir(f"{short}/tmp")
    shutil.copy(linker, short + short)
    content = bytearray(Path(PYTHON).read_bytes())
    elf_paths.redirect(content, short + short, short)
    program = Path(short, "program")
    program.write_bytes(content)
    program.chmod(0o755)
    code = "print(*{line.split()[-1] for line in open('/proc/self/maps') if '.so.' in line})"
    done = subprocess.run(
        [program, "-ISc", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": "/lib"},
    )
    assert {os.path.dirname(path) for path in done.stdout.split()} == {short}


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60), b"\x7fELF\x02\x02" + bytes(60)]
)
def test_other_programs_are_refused(content: bytes) -> None:
    with pytest.raises(NotElf):
        elf_paths.redirect(bytearray(content), "/x", "/y")


@pytest.mark.parametrize(("linker", "libraries"), [("/" * 100, "/"), ("/a/b", "/c")])
def test_paths_that_do_not_fit_are_refused(linker: str, libraries: str) -> None:
    content = bytearray(Path(PYTHON).read_bytes())
    before = bytes(content)
    with pytest.raises(NotElf):
        elf_paths.redirect(content, linker, libraries)
    assert content == before


def test_the_place_fits_on_every_machine() -> None:
    assert len(LINKER) <= len("/lib/ld-musl-x86_64.so.1")


def test_a_copy_holds_python_and_nothing_that_others_have_added(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        stamps = python_copy.make(str(tmp_path / "root"))
    finally:
        assert os.umask(mask) == 0o077
    assert PYTHON in stamps and all(os.path.exists(path) for path in stamps)
    seen = set()
    for place, names, files in os.walk(tmp_path / "root"):
        for name in (*names, *files):
            path = Path(place, name)
            assert not path.is_symlink()
            assert path.stat().st_mode & 0o7777 in (0o644, 0o755)
            seen.add(str(path.relative_to(tmp_path / "root")))
    assert {PROGRAM, PLACE.lstrip("/")} <= seen
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    assert f"{library}/os.py" in seen
    assert not [path for path in seen if "-packages" in path or path.endswith("customize.py")]
    assert f"{LINKER}\0".encode() in (tmp_path / "root" / PROGRAM).read_bytes()


def test_a_library_in_lib64_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "usr/lib64/python3.13"
    (library / "json").mkdir(parents=True)
    (library / "site-packages").mkdir()
    (library / "os.py").touch()
    (library / "private.py").touch(0o600)
    (library / "link.py").symlink_to("/etc/passwd")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path / "usr"))
    python_copy.make(str(tmp_path / "root"))
    copied = tmp_path / "root/lib64/python3.13"
    assert {path.name for path in copied.iterdir()} - {"__pycache__"} == {"json", "os.py"}


def test_a_library_for_root_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    (library / "os.py").touch(0o600)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    with pytest.raises(HostError, match="can't be read by other users"):
        python_copy.make(str(tmp_path / "root"))


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(str(tmp_path))
    (tmp_path / "var/lib").mkdir(parents=True)

    def fail(root: str) -> None:
        os.makedirs(f"{root}/lib")
        raise SandlotError("no")

    monkeypatch.setattr(python_copy, "make", fail)
    with pytest.raises(SandlotError), host_python.tree(site):
        pass
    assert os.listdir(site.python) == ["lock"]
