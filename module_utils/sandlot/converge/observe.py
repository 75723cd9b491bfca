# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One look at the host: all a run needs to know, without a side effect."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Mapping, Sequence

from .. import cgroups, idmap, images, network, store
from ..errors import StateError
from ..host import probe
from ..launcher.client import Launcher
from ..network import Interface
from ..sandbox import layers, record, runtime
from ..sandbox.names import known
from ..sandbox.record import Record, Records
from ..site import PINNED, SandboxPaths, Site
from .decide import ALL_PINS, NO_PINS, SOME_PINS, Observed


@dataclass(frozen=True)
class NamespaceRecord:
    """What a sandbox's namespaces were made with; kept beside the pins, gone at reboot."""

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
    traces: frozenset[str]
    seen: Mapping[str, Observed]
    made: Mapping[str, NamespaceRecord]
    before: Stored


def observe(site: Site, wished: Iterable[str], attached: Iterable[str] = ()) -> Observation:
    """``wished`` and ``attached`` are the sandboxes and networks that are asked for."""
    records = record.load_all(site)
    traces = known(site)
    names = sorted({*wished, *traces})
    made = _made_all(site, names)
    stored = Stored(images.observe(site), network.load(site))
    return Observation(
        records=records,
        ids=idmap.observe(site),
        images=stored.images,
        networks=network.load_for(site, {*attached, *_attached(records)}),
        network=network.observe(site),
        cgroups=cgroups.observe(site, names),
        maps_ids=_mapping(),
        launcher=Launcher(site).listening(),
        traces=frozenset(traces),
        seen={name: _seen(site, name, records, made.get(name)) for name in names},
        made=made,
        before=stored,
    )


def _mapping() -> Callable[[str], bool]:
    """Whether mounts at a path can map ids, asked once for each file system."""
    known: Dict[int, bool] = {}

    def maps(path: str) -> bool:
        while not os.path.exists(path):
            path = os.path.dirname(path)
        device = os.stat(path).st_dev
        if device not in known:
            known[device] = probe.maps_ids(path)
        return known[device]

    return maps


def _attached(records: Records) -> set[str]:
    return {item.network for entry in records.good.values() for item in entry.interfaces}


def _seen(site: Site, name: str, records: Records, made: NamespaceRecord | None) -> Observed:
    running = runtime.running(site.sandbox(name))
    known = records.good.get(name)
    return Observed(
        record=known,
        layer=layers.is_whole(site.sandbox(name)),
        pins=pins_of(site.sandbox(name), known),
        namespaces=made.digest if made else None,
        running=running.digest if running else None,
        detached=running is not None and _detached(site, known, running.pid),
        rebuild=layers.exists(site.sandbox(name).rebuild),
    )


def _detached(site: Site, known: Record | None, pid: int) -> bool:
    return known is not None and network.detached(site, known.name, known.spec.network_mode, pid)


def pins_of(sandbox: SandboxPaths, known: Record | None) -> str:
    """Without a time offset there is no time pin; the digest tells when one is due."""
    kinds = runtime.pinned(sandbox)
    if not kinds:
        return NO_PINS
    joins = known is not None and not known.spec.owns_network
    due = set(PINNED) - {"time"} - ({"net"} if joins else set())
    return ALL_PINS if kinds >= due else SOME_PINS


def _made_all(site: Site, names: Sequence[str]) -> Dict[str, NamespaceRecord]:
    found = {name: namespace_record_at(site.sandbox(name).namespaces, name) for name in names}
    return {name: made for name, made in found.items() if made}


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


def write_namespace_record(sandbox: SandboxPaths, made: NamespaceRecord) -> None:
    os.makedirs(sandbox.run, mode=0o700, exist_ok=True)
    interfaces = [interface.to_json() for interface in made.interfaces]
    data = {"digest": made.digest, "interfaces": interfaces}
    store.write(sandbox.namespaces, data, durable=False)
