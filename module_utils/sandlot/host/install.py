# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Installs, upgrades and removes the runtime of a host: engine, command and service."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Callable

from .. import MINIMUM_PYTHON, cgroups, handover, idmap, lock, network, sizes, store, volumes
from ..configuration import memory
from ..errors import HostError, SandlotError
from ..kernel import files, program
from ..kernel.trees import remove_entry, remove_tree
from ..launcher.client import Launcher
from ..launcher.command import interpreter
from ..oserrors import explained
from ..plan import Operation, descriptions
from ..sandbox import job_slots, names, record
from ..site import Site
from ..snapshots.store import identifiers, owners
from . import adopt, facts, payload, services, shared, sudo
from .services.service import Service, Texts

COMMAND = """\
#!{python} -I
import os
import sys

sys.path.insert(0, {lib!r})
from sandlot.cli import main

# Output is written by now. Python would free all objects first, a tenth of the time of an exec.
os._exit(main())
"""


@dataclass(frozen=True)
class Outcome:
    changed: bool
    actions: list[str]


def present(site: Site, *, check: bool) -> Outcome:
    """Install or upgrade; a running launcher switches to the new code and touches no sandbox."""
    return _converge(site, _present(site), check=check)


def absent(site: Site, *, check: bool) -> Outcome:
    """Remove everything of sandlot from the host; refused while there are sandboxes or snapshots.

    A check assumes that they are gone, as a teardown removes them first.
    """
    if not check:
        job_slots.end_all(site)
    left = sorted(names.known(site))
    if left and not check:
        raise SandlotError(
            f"there are sandboxes on this host: {', '.join(left)}",
            hint="remove them first: sandboxes with an empty list and purge: true",
        )
    kept = [f"{owner}/{entry}" for owner in owners(site) for entry in identifiers(site, owner)]
    if kept and not check:
        raise SandlotError(
            f"there are snapshots on this host: {', '.join(kept)}",
            hint="remove them first: sandboxes with an empty list, purge and purge_snapshots: true",
        )
    return _converge(site, _absent(site), check=check)


def _converge(site: Site, operations: list[Operation], *, check: bool) -> Outcome:
    if operations and not check:
        # The runtime is for every user to read; what is not sets its own modes.
        umask = os.umask(0o022)
        try:
            with lock.exclusive(site):
                _apply(operations)
        finally:
            os.umask(umask)
    return Outcome(bool(operations), descriptions(operations))


def _apply(operations: list[Operation]) -> None:
    for operation in operations:
        try:
            operation.apply()
        except OSError as error:
            raise explained(error, operation.describe()) from error


# -- present


def _present(site: Site) -> list[Operation]:
    operations = []
    if not payload.is_installed(site):
        files = payload.sources()
        adopt.check(site)
        _check_python()
        summary = f"install version {handover.digest(files)[:12]}"
        install = partial(_announced, site, partial(payload.install, site, files))
        operations.append(Operation("runtime", summary, install))
    service = services.find(site)
    for path, (text, mode) in _outdated(_texts(site, service)).items():
        write = partial(_announced, site, partial(_write, path, text, mode))
        operations.append(Operation("runtime", f"write {path}", write))
    operations += [*sudo.link_operations(site), *shared.link_operations(site)]
    if service:
        operations += _service(site, service)
    if operations or os.path.exists(_pending(site)):
        upgrade = partial(_upgrade, site, service)
        operations.append(Operation("runtime", "upgrade the launcher", upgrade))
    return operations


def _check_python() -> None:
    """HostError when the runtime's Python, which may not be the module's, is too old."""
    python = interpreter()
    code = "import sys; print(*sys.version_info[:3])"
    version = tuple(map(int, program.check([python, "-I", "-c", code]).split()))
    if version < MINIMUM_PYTHON:
        actual, least = (".".join(map(str, each)) for each in (version, MINIMUM_PYTHON))
        raise HostError(
            f"{python}, which would run sandboxes, is Python {actual}",
            hint=f"use a distribution whose Python is {least} or later",
        )
    network.check_pyroute2(facts.python()["pyroute2_version"], python)


def _texts(site: Site, service: Service | None) -> Texts:
    command = COMMAND.format(python=interpreter(), lib=site.lib)
    return {site.command: (command, 0o755), **(service.texts() if service else {})}


def _outdated(texts: Texts) -> Texts:
    hint = "remove it, and run again"
    return {
        path: (text, mode)
        for path, (text, mode) in texts.items()
        if store.read_bytes(path, hint=hint) != text.encode()
    }


def _service(site: Site, service: Service) -> list[Operation]:
    operations = []
    if not service.enabled():
        operations.append(Operation("runtime", f"enable {service.label}", service.enable))
    changed = os.path.exists(_pending(site)) or bool(_outdated(service.texts()))
    if service.needs_keeping(changed=changed):
        operations.append(Operation("runtime", "keep a launcher running", service.keep))
    return operations


def _announced(site: Site, change: Callable[[], None]) -> None:
    _write(_pending(site), "", 0o644)
    change()


def _pending(site: Site) -> str:
    """A file that exists from the first change until service manager and launcher know them all."""
    return f"{site.lib}/upgrade-pending"


def _write(path: str, text: str, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    store.replace(path, text.encode(), mode=mode)


def _upgrade(site: Site, service: Service | None) -> None:
    if service:
        service.reload()
    Launcher(site).upgrade()
    record.keep_spares(site)
    store.remove(_pending(site))


# -- absent


def _absent(site: Site) -> list[Operation]:
    operations = [
        *network.teardown_operations(site, network.observe(site)),
        *cgroups.teardown_operations(site, cgroups.observe(site, [])),
        *idmap.operations(site, idmap.observe(site), {}),
    ]
    for service in services.left(site):
        summary = f"remove {', '.join(service.traces())}"
        operations.append(Operation("runtime", summary, service.remove))
    launcher = Launcher(site)
    if launcher.exists():
        operations.append(Operation("runtime", "end the launcher", launcher.quit))
    ours = (*sudo.links(site), *shared.links(site))
    operations += [
        Operation("runtime", f"remove {path}", partial(_remove, site, path))
        for path in (site.run, *ours, *shared.directories(site), site.command, site.lib)
        if os.path.lexists(path)
    ]
    return operations + _state_removal(site, others=bool(operations))


def _state_removal(site: Site, *, others: bool) -> list[Operation]:
    """The removal of the state, but volumes: only their names take these away."""
    kept = volumes.names(site)
    # A run before this one may have taken the lock.
    aside = {*_kept(site), os.path.basename(site.lock)} if kept else set()
    left = set(files.names(site.state)) - aside
    if not os.path.lexists(site.state) or not (left or others):
        return []
    stay = f", but keep the volumes {', '.join(kept)}" if kept else ""
    return [Operation("runtime", f"remove {site.state}{stay}", partial(_remove_state, site))]


def _kept(site: Site) -> set[str]:
    """The needs of volumes: their directory and its mark, and the numbers of their quotas."""
    paths = (site.volumes, site.volumes_mark, site.projects)
    return {os.path.basename(path) for path in paths}


def _remove_state(site: Site) -> None:
    volumes.release(site)
    if not volumes.names(site):
        _remove(site, site.state)
        return
    for entry in set(files.names(site.state)) - _kept(site):
        remove_entry(f"{site.state}/{entry}")


def _remove(site: Site, path: str) -> None:
    if path == site.run and os.path.isdir(path):
        with Launcher(site).kept_out():
            memory.release(site)
            remove_tree(path)
        return
    if path in shared.directories(site):
        shared.remove_directory(path)
        return
    if path == site.state:
        sizes.release(site)
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        store.remove(path)
