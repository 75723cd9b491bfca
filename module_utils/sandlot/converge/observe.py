# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Observes the host once, without a side effect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Mapping

from .. import cgroups, idmap, images, network, store
from ..errors import StateError
from ..host import probe
from ..kernel import files
from ..launcher.client import Launcher
from ..network import Interface
from ..sandbox import layers, record, runtime
from ..sandbox.names import known
from ..sandbox.record import Record, Records
from ..site import PINNED, SandboxPaths, Site
from .decide import ALL_PINS, NO_PINS, SOME_PINS, Observed


@dataclass(frozen=True)
class NamespaceRecord:
    """The settings a sandbox's namespaces were made with; kept beside the pins, gone at reboot."""

    digest: str
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True)
class Stored:
    """Images and networks that the host has on record."""

    images: Mapping[str, images.Image]
    networks: Mapping[str, network.Network]


@dataclass(frozen=True)
class Observation:
    """``maps_ids`` is asked only when a layer is to be made, and then once.

    ``images`` and ``networks`` are as the run makes them; ``before`` are those stored.
    """

    records: Records
    ids: idmap.IdFiles
    images: Mapping[str, images.Image]
    networks: Mapping[str, network.Network]
    network: network.State
    cgroups: cgroups.CgroupState
    maps_ids: Callable[[str], bool]
    launcher: bool
    known: frozenset[str]
    sandboxes: Mapping[str, Observed]
    namespaces: Mapping[str, NamespaceRecord]
    before: Stored


def observe(site: Site, asked: Iterable[str], attached: Iterable[str] = ()) -> Observation:
    """``asked`` and ``attached`` are sandboxes and networks of the request."""
    records, there = record.load_all(site), known(site)
    names = sorted({*asked, *there})
    recorded = {name: namespace_record_at(site.sandbox(name).namespaces, name) for name in names}
    namespaces = {name: item for name, item in recorded.items() if item}
    used = {item.network for entry in records.good.values() for item in entry.interfaces}
    stored = Stored(images.observe(site), network.load(site))
    return Observation(
        records=records,
        ids=idmap.observe(site),
        images=stored.images,
        networks=network.load_for(site, {*attached, *used}),
        network=network.observe(site),
        cgroups=cgroups.observe(site, names),
        maps_ids=_mapping(),
        launcher=Launcher(site).listening(),
        known=frozenset(there),
        sandboxes={name: _sandbox(site, name, records, namespaces.get(name)) for name in names},
        namespaces=namespaces,
        before=stored,
    )


def _mapping() -> Callable[[str], bool]:
    """Whether mounts at a path can map ids, asked once for each file system."""
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
    running = runtime.running(site.sandbox(name))
    known = records.good.get(name)
    detached = False
    if running is not None and known is not None:
        detached = network.detached(site, name, known.spec.network_mode, running.pid)
    return Observed(
        record=known,
        layer=layers.is_whole(site.sandbox(name)),
        pins=pins_of(site.sandbox(name), known),
        namespaces=namespaces.digest if namespaces else None,
        running=running.digest if running else None,
        detached=detached,
        rebuild=layers.exists(site.sandbox(name).rebuild),
    )


def pins_of(sandbox: SandboxPaths, known: Record | None) -> str:
    """Without a time offset there is no time pin; the digest tells when one is due."""
    kinds = runtime.pinned(sandbox)
    if not kinds:
        return NO_PINS
    joins = known is not None and not known.spec.owns_network
    due = set(PINNED) - {"time"} - ({"net"} if joins else set())
    return ALL_PINS if kinds >= due else SOME_PINS


def namespace_record_at(path: str, name: str) -> NamespaceRecord | None:
    """Anything unreadable counts as unknown: the namespaces are then made again."""
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
