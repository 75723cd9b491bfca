# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A module runs the engine of its controller: the host's, or a copy when others can change that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sandlot import handover

ENGINE = Path(handover.__file__).parent
# As Ansible sends it: a zip in which the engine has these two files.
SENT = ("__init__.py", "handover.py")
# The part of a module, and the frame around it, of an engine that only says where it is.
SMALL = {
    "sandlot/__init__.py": b"",
    "sandlot/modules/__init__.py": b"",
    "sandlot/modules/asked.py": b"ARGUMENTS = {}\naction = __file__\n",
    "sandlot/shell.py": b"import json\ndef start(base, spec, given, action):\n"
    b"    print(json.dumps([action, given]))\n",
}
Host = Callable[..., Any]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Runs the module ``asked`` as Ansible would, with the engine that the plugin names."""
    module = tmp_path / "module.zip"
    with zipfile.ZipFile(module, "w") as packed:
        for name in SENT:
            packed.writestr(f"sent/{name}", (ENGINE / name).read_bytes())

    def run(engine: dict[str, Any] | None, *, before: str = "", status: int = 0) -> Any:
        given: dict[str, Any] = {"names": ["a"]}
        if engine is not None:
            given["_engine"] = {**engine, "module": "asked"}
        code = (
            f"import json, sys\n{before}\nsys.path.insert(0, sys.argv[1])\n"
            "from sent import handover; handover.run('carrier', None, json.loads(sys.argv[2]))"
        )
        command = [sys.executable, "-c", code, str(module), json.dumps(given)]
        environment = {"SANDLOT_ROOT": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, ""), done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The small engine, installed."""
    lib = tmp_path / "usr/local/lib/sandlot"
    for name, content in SMALL.items():
        path = lib / "release-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    cache = lib / "release-1/sandlot/__pycache__"
    cache.mkdir()
    (cache / "shell.cpython-311.pyc").write_bytes(b"")
    for directory in (lib, *(path for path in lib.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    (cache / "shell.cpython-311.pyc").chmod(0o644)
    (lib / "sandlot").symlink_to("release-1/sandlot")
    return lib / "release-1/sandlot"


WANTED = handover.digest(SMALL)
GIVEN = {"names": ["a"], "_ansible_module_name": "asked"}
NEEDED = {"engine_needed": True}


def test_the_same_engine_is_used_from_disk(host: Host, package: Path) -> None:
    assert host({"digest": WANTED}) == [str(package / "modules/asked.py"), GIVEN]
    assert host({"digest": WANTED, "probe": True}) == {"engine_needed": False}


def test_nothing_is_installed(host: Host) -> None:
    assert host({"digest": WANTED}) == NEEDED
    assert host({"digest": WANTED, "probe": True}) == NEEDED


def other_place(package: Path) -> None:
    """The link leads out of the directory that only root can write."""
    package.parent.rename(package.parents[2] / "elsewhere")
    link = package.parents[1] / "sandlot"
    link.unlink()
    link.symlink_to("../elsewhere/sandlot")


def linked(package: Path) -> None:
    shell = package / "shell.py"
    shell.rename(package.parent / "shell.py")
    shell.symlink_to("../shell.py")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda package: (package / "shell.py").write_bytes(b"import jsom\n"),
    "an empty file": lambda package: (package / "modules/__init__.py").write_bytes(b" "),
    "a missing file": lambda package: (package / "shell.py").unlink(),
    "one more file": lambda package: (package / "json.py").write_bytes(b""),
    "the mode of a file": lambda package: (package / "shell.py").chmod(0o664),
    "the mode of a directory": lambda package: (package / "modules").chmod(0o777),
    "the mode of the package": lambda package: package.chmod(0o775),
    "the mode of the release": lambda package: package.parent.chmod(0o775),
    "the mode of all": lambda package: package.parents[1].chmod(0o757),
    "the mode of a directory of bytecode": lambda package: (package / "__pycache__").chmod(0o777),
    "the mode of bytecode": lambda package: next(package.glob("*/*.pyc")).chmod(0o606),
    "a file elsewhere": linked,
    "an engine elsewhere": other_place,
    "the mode of a directory above": lambda package: package.parents[2].chmod(0o777),
    "no engine": lambda package: (package.parents[1] / "sandlot").unlink(),
}
OWNED: dict[str, Callable[[Path], object]] = {
    "the owner of a file": lambda package: os.chown(package / "shell.py", 1000, 1000),
    "the owner of bytecode": lambda package: os.chown(package / "__pycache__", 1000, 1000),
    "the owner of all": lambda package: os.chown(package.parents[1], 1000, 1000),
    "the owner of a directory above": lambda package: os.chown(package.parents[3], 1000, 1000),
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


@pytest.mark.parametrize("damage", [*DAMAGES, *(pytest.param(x, marks=needs_root) for x in OWNED)])
def test_an_engine_that_differs_or_is_open_to_others_is_not_used(
    host: Host, package: Path, damage: str
) -> None:
    {**DAMAGES, **OWNED}[damage](package)
    assert host({"digest": WANTED}) == NEEDED


def test_what_was_sent_is_used_in_its_place(host: Host, package: Path, tmp_path: Path) -> None:
    archive = tmp_path / "engine.zip"
    archive.write_bytes(handover.pack(SMALL))
    named = {"digest": WANTED, "archive": str(archive)}
    assert host(named)[0] == str(package / "modules/asked.py")
    (package / "shell.py").chmod(0o666)
    place, given = host(named)
    assert place.startswith("/proc/self/fd/") and given == GIVEN


def test_an_archive_that_was_changed_on_its_way_is_not_used(host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "engine.zip"
    changed = handover.pack({**SMALL, "sandlot/shell.py": b"raise SystemExit(3)"})
    for content in (changed, changed[: len(changed) // 2], b""):
        archive.write_bytes(content)
        found = host({"digest": WANTED, "archive": str(archive)}, status=1)
        assert found["failed"] and "is not the one that was sent" in found["msg"]


def test_without_the_action_plugin_the_remedy_is_told(host: Host) -> None:
    found = host(None, status=1)
    assert found["failed"] and "plugins/action" in found["msg"]


def test_an_older_python_is_refused_before_any_import(host: Host) -> None:
    found = host({"digest": WANTED}, before="sys.version_info = (3, 8, 20)", status=1)
    assert found == {
        "failed": True,
        "msg": f"{sys.executable} is Python 3.8.20, sandlot needs 3.9 or later; "
        "name another with ansible_python_interpreter",
    }


def test_a_sent_engine_knows_its_own_sources(tmp_path: Path) -> None:
    """What it installs has its digest, whatever else is in the directory of a checkout."""
    files = handover.sources(str(ENGINE))
    archive = tmp_path / "engine.zip"
    archive.write_bytes(handover.pack(files))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sandlot.host import payload; print(payload.digest(payload.sources()))"
    )
    command = [sys.executable, "-c", code, str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == handover.digest(files)
