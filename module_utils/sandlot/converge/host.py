# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The on-host runtime: the engine, the command and the unit; made, upgraded, removed."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Dict, Mapping

from .. import cgroups, idmap, lock, network, store
from ..errors import SandlotError
from ..launcher.client import UNIT, Launcher
from ..launcher.server import command as launcher_command
from ..paths import Paths
from ..plan import Operation, apply_all, descriptions
from . import layer, observe, payload

Json = Dict[str, Any]

SYSTEMD = "/run/systemd/system"
SYSTEM_PYTHON = "/usr/bin/python3"
COMMAND = """\
#!{python} -I
import sys

sys.path.insert(0, {lib!r})
from sandlot.cli import main

sys.exit(main())
"""
SERVICE = """\
[Unit]
Description=Launcher of the sandboxes of sandlot
Documentation=file:{lib}
After=local-fs.target network.target nftables.service firewalld.service
Before=multi-user.target

[Service]
Type=simple
ExecStart={launcher}
ExecStartPost={command} up
KillMode=process
Restart=always
RestartSec=1
TasksMax=infinity
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Outcome:
    changed: bool
    actions: list[str]


def python() -> str:
    """The interpreter of the runtime: the distribution's, else the one that runs this."""
    return SYSTEM_PYTHON if os.access(SYSTEM_PYTHON, os.X_OK) else sys.executable


def present(paths: Paths, *, check: bool) -> Outcome:
    """Install or upgrade; a running launcher takes over the new code without touching sandboxes."""
    return _converge(paths, _present(paths), check=check)


def absent(paths: Paths, *, check: bool) -> Outcome:
    """Leave the host as it was found; refused while there are sandboxes."""
    names = sorted(observe.known_names(paths))
    if names:
        raise SandlotError(
            f"there are sandboxes on this host: {', '.join(names)}",
            hint="remove them first: sandboxes with an empty list and purge: true",
        )
    return _converge(paths, _absent(paths), check=check)


def _converge(paths: Paths, operations: list[Operation], *, check: bool) -> Outcome:
    if operations and not check:
        with lock.exclusive(paths):
            apply_all(operations)
    return Outcome(bool(operations), descriptions(operations))


# -- present


def _present(paths: Paths) -> list[Operation]:
    files = payload.sources()
    operations = []
    if not payload.installed(paths, files):
        summary = f"install version {payload.digest(files)[:12]}"
        operations.append(Operation("runtime", summary, lambda: _install(paths, files)))
    operations += [
        Operation("runtime", f"write {path}", functools.partial(_write, path, text, mode))
        for path, (text, mode) in _texts(paths).items()
        if _read(path) != text
    ]
    if _has_systemd(paths) and not os.path.lexists(_wanted(paths)):
        operations.append(Operation("runtime", f"enable {UNIT}", _enable))
    if operations or os.path.exists(_pending(paths)):
        operations.append(Operation("runtime", "upgrade the launcher", lambda: _upgrade(paths)))
    return operations


def _install(paths: Paths, files: Mapping[str, bytes]) -> None:
    os.makedirs(paths.lib, exist_ok=True)
    _write(_pending(paths), "", 0o644)
    payload.install(paths, files)


def _pending(paths: Paths) -> str:
    """Exists from before the switch to new code until a running launcher has taken it over."""
    return f"{paths.lib}/upgrade-pending"


def _upgrade(paths: Paths) -> None:
    Launcher(paths, python=python()).upgrade()
    store.remove(_pending(paths))


def _texts(paths: Paths) -> dict[str, tuple[str, int]]:
    """Small files with their content and mode."""
    texts = {paths.command: (COMMAND.format(python=python(), lib=paths.lib), 0o755)}
    if _has_systemd(paths):
        launcher = shlex.join([python(), *launcher_command(paths)[1:]])
        unit = SERVICE.format(lib=paths.lib, launcher=launcher, command=paths.command)
        texts[_unit(paths)] = (unit, 0o644)
    return texts


def _has_systemd(paths: Paths) -> bool:
    return not paths.root and os.path.isdir(SYSTEMD)


def _unit(paths: Paths) -> str:
    return f"{paths.root}/etc/systemd/system/{UNIT}"


def _wanted(paths: Paths) -> str:
    return f"{paths.root}/etc/systemd/system/multi-user.target.wants/{UNIT}"


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    store.replace(path, text.encode(), mode=mode)


def _enable() -> None:
    _systemctl("daemon-reload")
    _systemctl("enable", UNIT)


def _systemctl(*words: str) -> None:
    command = ["systemctl", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SandlotError(f"{' '.join(command)}: {done.stderr.strip()}")


# -- absent


def _absent(paths: Paths) -> list[Operation]:
    operations = [
        *network.teardown_operations(paths, network.observe(paths)),
        *cgroups.teardown_operations(paths, cgroups.observe(paths, [])),
        *idmap.operations(paths, idmap.observe(paths), {}),
    ]
    launcher = Launcher(paths, python=python())
    if os.path.lexists(_unit(paths)):
        operations.append(Operation("runtime", f"remove {UNIT}", lambda: _remove_unit(paths)))
    if launcher.ping() is not None:
        operations.append(Operation("runtime", "end the launcher", launcher.quit))
    return operations + [
        Operation("runtime", f"remove {path}", functools.partial(_remove, path))
        for path in (paths.run, paths.command, paths.lib, paths.state)
        if os.path.lexists(path)
    ]


def _remove_unit(paths: Paths) -> None:
    _systemctl("disable", "--now", UNIT)
    os.unlink(_unit(paths))
    _systemctl("daemon-reload")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        layer.remove_tree(path)
    else:
        store.remove(path)
