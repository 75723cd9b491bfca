# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The on-host runtime: the engine, the command and the unit; made, upgraded, removed."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from typing import Mapping, Sequence

from .. import cgroups, idmap, lock, network, store
from ..errors import SandlotError
from ..launcher.client import UNIT, Launcher
from ..oserrors import explained
from ..plan import Operation, descriptions
from ..sandbox import layer, names
from ..site import Site
from . import adopt, payload, services
from .services import has_systemd

COMMAND = """\
#!{python} -I
import sys

sys.path.insert(0, {lib!r})
from sandlot.cli import main

sys.exit(main())
"""
BOOT_UNIT = "sandlot-up.service"
WANTED_BY = ("multi-user.target", "nftables.service")
# Two units, for a deploy that holds the lock starts the first, and `up` waits for that lock.
# Sandboxes are in no unit's cgroup: a shutdown would take away their network, filter and pins under
# them and kill them last, were they not ended by the unit that is stopped before all these.
# nftables.service flushes all tables, ours as well, whenever it is started or reloaded.
UNITS = {
    UNIT: """\
[Unit]
Description=Launcher of the sandboxes of sandlot
After=local-fs.target network.target nftables.service firewalld.service

[Service]
ExecStart={command} launcher
ExecStop={command} down --at-shutdown
TimeoutStopSec=5min
KillMode=process
Restart=always
RestartSec=1
TasksMax=infinity
LimitNOFILE=65536
""",
    BOOT_UNIT: """\
[Unit]
Description=Sandboxes of sandlot
Wants={unit}
After={unit} nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command} up
ExecReload={command} up
TimeoutStartSec=infinity

[Install]
WantedBy={wanting}
""",
}


@dataclass(frozen=True)
class Outcome:
    changed: bool
    actions: list[str]


def present(site: Site, *, check: bool) -> Outcome:
    """Install or upgrade; a running launcher takes over the new code without touching sandboxes."""
    return _converge(site, _present(site), check=check)


def absent(site: Site, *, check: bool) -> Outcome:
    """Leave the host as it was found; refused while there are sandboxes."""
    left = sorted(names.known(site))
    if left:
        raise SandlotError(
            f"there are sandboxes on this host: {', '.join(left)}",
            hint="remove them first: sandboxes with an empty list and purge: true",
        )
    return _converge(site, _absent(site), check=check)


def _converge(site: Site, operations: list[Operation], *, check: bool) -> Outcome:
    if operations and not check:
        with lock.exclusive(site):
            _apply(operations)
    return Outcome(bool(operations), descriptions(operations))


def _apply(operations: Sequence[Operation]) -> None:
    for operation in operations:
        try:
            operation.apply()
        except OSError as error:
            raise explained(error, operation.describe()) from error


# -- present


def _present(site: Site) -> list[Operation]:
    files = payload.sources()
    operations = []
    if not payload.installed(site, files):
        adopt.check(site)
        summary = f"install version {payload.digest(files)[:12]}"
        operations.append(Operation("runtime", summary, lambda: _install(site, files)))
    operations += [
        Operation("runtime", f"write {path}", functools.partial(_put, site, path, text, mode))
        for path, (text, mode) in _texts(site).items()
        if _read(path) != text
    ]
    if has_systemd(site) and not all(map(os.path.lexists, boot_links(site))):
        operations.append(Operation("runtime", f"enable {BOOT_UNIT}", _enable))
    operations += _service(site)
    if operations or os.path.exists(_pending(site)):
        operations.append(Operation("runtime", "upgrade the launcher", lambda: _upgrade(site)))
    return operations


def _service(site: Site) -> list[Operation]:
    """Without systemd: the service is started after a boot, and runs from now on."""
    service = services.find(site)
    if service is None:
        return []
    found = []
    if not service.enabled():
        found.append(Operation("runtime", "enable the service sandlot", service.enable))
    if not service.kept() or os.path.exists(_pending(site)) or _changed(service.texts()):
        found.append(Operation("runtime", "keep a launcher running", service.keep))
    return found


def _changed(texts: Mapping[str, tuple[str, int]]) -> bool:
    return any(_read(path) != text for path, (text, _) in texts.items())


def _install(site: Site, files: Mapping[str, bytes]) -> None:
    _announce(site)
    payload.install(site, files)


def _put(site: Site, path: str, text: str, mode: int) -> None:
    _announce(site)
    _write(path, text, mode)


def _announce(site: Site) -> None:
    _write(_pending(site), "", 0o644)


def _pending(site: Site) -> str:
    """Exists from before the first change until systemd and a running launcher know all of them."""
    return f"{site.lib}/upgrade-pending"


def _upgrade(site: Site) -> None:
    if has_systemd(site):
        _systemctl("daemon-reload")
        # Active from now on, as after a boot. It waits for the lock, so nobody may wait for it.
        _systemctl("start", "--no-block", BOOT_UNIT)
    Launcher(site, python=payload.python()).upgrade()
    store.remove(_pending(site))


def _texts(site: Site) -> dict[str, tuple[str, int]]:
    """Small files with their content and mode."""
    texts = {site.command: (COMMAND.format(python=payload.python(), lib=site.lib), 0o755)}
    if has_systemd(site):
        wanting = " ".join(WANTED_BY)
        for name, text in UNITS.items():
            content = text.format(command=site.command, unit=UNIT, wanting=wanting)
            texts[_unit(site, name)] = (content, 0o644)
    service = services.find(site)
    return {**texts, **(service.texts() if service else {})}


def _unit(site: Site, name: str) -> str:
    return f"{site.root}/etc/systemd/system/{name}"


def boot_links(site: Site) -> list[str]:
    return [_unit(site, f"{wanting}.wants/{BOOT_UNIT}") for wanting in WANTED_BY]


def _read(path: str) -> str | None:
    content = store.read_bytes(path, hint=f"remove {path}, and run again")
    return None if content is None else content.decode("utf-8", "replace")


def _write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    store.replace(path, text.encode(), mode=mode)


def _enable() -> None:
    _systemctl("enable", BOOT_UNIT)


def _systemctl(*words: str) -> None:
    command = ["systemctl", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SandlotError(f"{' '.join(command)}: {done.stderr.strip()}")


# -- absent


def _absent(site: Site) -> list[Operation]:
    operations = [
        *network.teardown_operations(site, network.observe(site)),
        *cgroups.teardown_operations(site, cgroups.observe(site, [])),
        *idmap.operations(site, idmap.observe(site), {}),
    ]
    launcher = Launcher(site, python=payload.python())
    units = [name for name in UNITS if os.path.lexists(_unit(site, name))]
    if units:
        summary = f"remove {', '.join(units)}"
        operations.append(Operation("runtime", summary, lambda: _remove_units(site, units)))
    service = services.left(site)
    if service:
        operations.append(Operation("runtime", "remove the service sandlot", service.remove))
    if launcher.exists():
        operations.append(Operation("runtime", "end the launcher", launcher.quit))
    return operations + [
        Operation("runtime", f"remove {path}", functools.partial(_remove, path))
        for path in (site.run, site.command, site.lib, site.state)
        if os.path.lexists(path)
    ]


def _remove_units(site: Site, names: Sequence[str]) -> None:
    _systemctl("disable", "--now", *names)
    for name in names:
        os.unlink(_unit(site, name))
    _systemctl("daemon-reload")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        layer.remove_tree(path)
    else:
        store.remove(path)
