# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs a module's part of the engine: of the engine on the host, or of the one that was sent.

Ansible puts this file alone into a module, so it imports no other by name. The engine on a host is
compiled; one from a zip is compiled by each run (0.7 s), and takes long to pack and to send.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import stat
import sys
import zipfile

from . import MINIMUM_PYTHON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Dict, Iterator, Mapping, NoReturn, Optional, Tuple, Type, Union

    Json = Dict[str, Any]

PACKAGE = "sandlot"
ENGINE = "_engine"
"""The argument of an action plugin: module, digest of the engine, and where it has been sent to."""


def run(name: str, base: Type[Any], given: Optional[Json]) -> None:
    """Carry out a module: ``base`` is AnsibleModule, ``given`` its arguments as they came.

    Tools that read the argument spec give none.
    """
    _check_python()
    engine = (given or {}).pop(ENGINE, None)
    package = _package(engine)
    if given and engine:
        name = given["_ansible_module_name"] = engine["module"]
    module = importlib.import_module(f"{package}.modules.{name}")
    shell = importlib.import_module(f"{package}.shell")
    shell.start(base, module.ARGUMENTS, given, module.action)


def _package(engine: Optional[Json]) -> str:
    """The name by which the engine can be imported."""
    if engine is None:
        return _beside()
    lib = f"{os.environ.get('SANDLOT_ROOT', '').rstrip('/')}/usr/local/lib/sandlot"
    release = installed(lib, engine["digest"])
    if release and _replaceable(release):
        release = ""
    if engine.get("probe"):
        _answer(engine_needed=not release)
    if not release and not engine.get("archive"):
        _answer(engine_needed=True)
    sys.path.insert(0, release or _received(engine["archive"], engine["digest"]))
    return PACKAGE


def _beside() -> str:
    """The engine of a checkout or a collection, where no plugin has sent the module."""
    if getattr(__spec__.loader, "archive", None):
        _answer(
            failed=True,
            msg="the action plugin of this module did not run; name plugins/action of sandlot as "
            "action_plugins in ansible.cfg",
        )
    return __name__.rpartition(".")[0]


def _answer(**result: object) -> NoReturn:
    sys.stdout.write(json.dumps(result))
    raise SystemExit(1 if result.get("failed") else 0)


def _check_python() -> None:
    """Fail as ansible.module_utils.basic does: the engine can't be imported."""
    if sys.version_info < MINIMUM_PYTHON:
        least = ".".join(map(str, MINIMUM_PYTHON))
        actual = ".".join(map(str, sys.version_info[:3]))
        message = (
            f"{sys.executable} is Python {actual}, sandlot needs {least} or later; "
            "name another with ansible_python_interpreter"
        )
        _answer(failed=True, msg=message)


# -- engines


def digest(files: Mapping[str, bytes]) -> str:
    """The digest of an engine: of its sources by their paths, as ``sandlot/site.py``."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    return total.hexdigest()


def sources(package: str, *, guarded: bool = False) -> Dict[str, bytes]:
    """The sources of an engine in a directory; OSError for a ``guarded`` one that others change."""
    return dict(_sources(package, PACKAGE, guarded=guarded))


def _sources(directory: str, path: str, *, guarded: bool) -> Iterator[Tuple[str, bytes]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            # Bytecode as well: Python compares it with the time and the size of its source only.
            if guarded:
                _guard(entry.path, entry.stat(follow_symlinks=False))
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _sources(entry.path, f"{path}/{entry.name}", guarded=guarded)
            elif entry.name.endswith(".py"):
                with open(entry.path, "rb") as handle:
                    yield f"{path}/{entry.name}", handle.read()


def _replaceable(path: str) -> bool:
    """Whether others can put another directory in the place of this one.

    On Debian, the group staff can: it has the programs in /usr/local/bin as well.
    """
    while path != "/":
        path = os.path.dirname(path)
        state = os.lstat(path)
        open_to_all = state.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
        if state.st_uid not in (0, os.geteuid()) or open_to_all:
            return True
    return False


def _guard(path: str, state: os.stat_result) -> None:
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & 0o022:
        raise PermissionError(f"others can change {path}")


def installed(lib: str, wanted: str) -> str:
    """The directory in ``lib`` with the engine of a digest; "" without one that is only root's."""
    release, actual = examined(lib)
    return release if actual == wanted else ""


def examined(lib: str) -> Tuple[str, str]:
    """The directory in ``lib`` with an engine, and its digest; "" without one only root's."""
    try:
        package = os.path.realpath(f"{lib}/{PACKAGE}")
        release = os.path.dirname(package)
        if os.path.dirname(release) != os.path.realpath(lib):
            return "", ""
        for directory in (os.path.realpath(lib), release, package):
            _guard(directory, os.lstat(directory))
        return release, digest(sources(package, guarded=True))
    except OSError:
        return "", ""


def _received(archive: str, wanted: str) -> str:
    """A copy of the archive in memory: nobody can change it between the look and the import."""
    with open(archive, "rb") as handle:
        content = handle.read()
    try:
        whole = digest(unpacked(io.BytesIO(content))) == wanted
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        _answer(failed=True, msg=f"the engine in {archive} is not the one that was sent; run again")
    copy = os.memfd_create(PACKAGE)
    with open(copy, "wb", closefd=False) as writer:
        writer.write(content)
    return f"/proc/self/fd/{copy}"


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of an engine, which Python imports from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(files):
            packed.writestr(path, files[path])
    return buffer.getvalue()


def unpacked(archive: Union[str, IO[bytes]]) -> Dict[str, bytes]:
    """The sources in an archive of ``pack``."""
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(name) for name in packed.namelist()}
