# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Observes the host once, without a side effect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Iterable, Mapping, Sequence

from .. import cgroups, idmap, images, network, sizes, store, volumes
from ..errors import StateError
from ..host import probe
from ..kernel import files
from ..launcher.client import Launcher
from ..network import Interface, Network
from ..network import State as NetworkState
from ..sandbox import launchfile, layers, mount_state, record, reloading, runtime
from ..sandbox.names import known
from ..sandbox.record import Record, Records
from ..site import PINNED, SandboxPaths, Site
from ..volumes import Volumes
from . import configured
from .decide import ALL_PINS, NO_PINS, SOME_PINS, Observed


@dataclass(frozen=True)
class NamespaceRecord:
    """The settings of a sandbox's namespaces when they were made; a reboot removes the file."""

    digest: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True)
class Stored:
    """Images and networks that the host has on record."""

    images: Mapping[str, images.Image]
    networks: Mapping[str, Network]


@dataclass(frozen=True)
class Observation:
    """The state of a host, as a run plans from it.

    ``images`` and ``networks`` are the ones after the run, ``before`` holds the stored ones.
    ``maps_ids`` probes the kernel when it is called, once for each file system.
    """

    records: Records
    ids: idmap.IdFiles
    images: Mapping[str, images.Image]
    networks: Mapping[str, Network]
    network: NetworkState
    cgroups: cgroups.CgroupState
    maps_ids: Callable[[str], bool]
    launcher: bool
    known: frozenset[str]
    sandboxes: Mapping[str, Observed]
    namespaces: Mapping[str, NamespaceRecord]
    before: Stored
    volumes: Volumes


def observe(
    site: Site,
    asked: Iterable[str],
    attached: Iterable[str] = (),
    *,
    scope: Collection[str] | None = None,
) -> Observation:
    """Observe the host; ``asked`` and ``attached`` name sandboxes and networks of the request.

    With a ``scope``, only these sandboxes are looked at.
    """
    records = record.load_all(site, scope)
    layout = cgroups.detect()
    present = known(site, layout) if scope is None else {*scope}
    names = sorted({*asked, *present})
    interfaces = [item for entry in records.good.values() for item in entry.interfaces]
    recorded = {name: namespace_record_at(site.sandbox(name).namespaces, name) for name in names}
    namespaces = {name: item for name, item in recorded.items() if item}
    used = {item.network for item in interfaces}
    stored = Stored(images.observe(site), network.load(site))
    return Observation(
        records=records,
        ids=idmap.observe(site),
        images=stored.images,
        networks=network.load_for(site, {*attached, *used}),
        network=network.observe(site, None if scope is None else interfaces),
        cgroups=cgroups.observe(site, names, layout),
        maps_ids=_mapping(),
        launcher=Launcher(site).listening(),
        known=frozenset(present),
        sandboxes={name: _sandbox(site, name, records, namespaces.get(name)) for name in names},
        namespaces=namespaces,
        before=stored,
        volumes=volumes.load_all(site),
    )


def _mapping() -> Callable[[str], bool]:
    """A function: whether mounts at a path can map ids; it probes each file system once."""
    known: Dict[int, bool] = {}

    def maps(path: str) -> bool:
        path = files.existing(path)
        device = os.stat(path).st_dev
        if device not in known:
            known[device] = probe.maps_ids(path)
        return known[device]

    return maps


def _sandbox(
    site: Site, name: str, records: Records, namespaces: NamespaceRecord | None
) -> Observed:
    running = runtime.settled(site.sandbox(name))
    known = records.good.get(name)
    detached = False
    if running is not None and known is not None:
        detached = network.detached(site, name, known.spec.network_mode, running.pid)
    mounts = mount_state.observe(site.sandbox(name), running) if running else ()
    mounts = configured.checked(site, mounts)
    return Observed(
        record=known,
        layer=layers.is_whole(site.sandbox(name)),
        pins=pins_of(site.sandbox(name), known),
        namespaces=namespaces.digest if namespaces else None,
        running=running.digest if running else None,
        detached=detached,
        bound=sizes.look(site, layers.place(site.sandbox(name))),
        rebuild=layers.exists(site.sandbox(name).rebuild),
        previous=record.previous(site, name),
        since=running.since if running else 0.0,
        mounts=mounts,
        devices=_devices(site, known) if running and known else (),
        succeeded=None if running else runtime.succeeded(site.sandbox(name)),
        shows=configured.observe(site, name, mounts),
        reload=reloading.marked(site.sandbox(name)) if running else (),
    )


def _devices(site: Site, known: Record) -> Sequence[Mapping[str, Any]]:
    """The devices that the sandbox was given, with their numbers."""
    if not known.spec.devices:
        return ()
    current = launchfile.decoded(launchfile.current(site, known.name))
    return tuple(current.get("devices", ()))


def pins_of(sandbox: SandboxPaths, known: Record | None) -> str:
    """Whether all pins exist; the time pin is not counted, as only a time offset needs one."""
    kinds = runtime.pinned(sandbox)
    if not kinds:
        return NO_PINS
    joins = known is not None and not known.spec.owns_network
    due = set(PINNED) - {"time"} - ({"net"} if joins else set())
    return ALL_PINS if kinds >= due else SOME_PINS


def namespace_record_at(path: str, name: str) -> NamespaceRecord | None:
    """The namespace record at ``path``; None if unreadable, so that the namespaces are remade."""
    try:
        data = store.read(path)
        if data is None:
            return None
        interfaces = [Interface.from_json(name, entry) for entry in data["interfaces"]]
        return NamespaceRecord(str(data["digest"]), tuple(interfaces))
    except (StateError, KeyError, TypeError):
        return None


def write_namespace_record(sandbox: SandboxPaths, namespaces: NamespaceRecord) -> None:
    os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    interfaces = [interface.to_json() for interface in namespaces.interfaces]
    data = {"digest": namespaces.digest, "interfaces": interfaces}
    store.write(sandbox.namespaces, data, durable=False)
