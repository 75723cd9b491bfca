# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Wishes to targets: every check that can refuse a run, and every allocation, before any change."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from .. import cgroups, idmap, images, network
from ..errors import SandlotError, SpecError
from ..images import Image, ImagePlan, setup
from ..network import Interface, Publication, SandboxPolicy
from ..sandbox import etcfiles, launchfile
from ..sandbox.record import PRESENT, REMOVING, ImageRef, Record
from ..site import Site
from . import dependencies
from .decide import ABSENT, Desired, Target, wanted
from .observe import Observation


@dataclass(frozen=True)
class Request:
    """What one run is asked for: all there is to be of each kind, None for a kind left alone.

    ``networks`` has None for one that is to be absent. ``purge`` removes what is not listed, of the
    kinds that are given; ``prune`` trees of images that nothing refers to. ``repair`` puts only the
    network of these sandboxes right. ``made`` are images that are not recorded, as they are being
    made. ``uploads`` tells where archives of images were copied to, None when nobody copies them.
    ``management_ports`` are never published.
    """

    sandboxes: Optional[Tuple[Desired, ...]] = None
    networks: Optional[Mapping[str, Optional[network.Network]]] = None
    images: Optional[Tuple[images.ImageSpec, ...]] = None
    purge: bool = False
    prune: bool = False
    check: bool = False
    repair: bool = False
    made: Mapping[str, Image] = field(default_factory=dict)
    uploads: Optional[Mapping[str, str]] = None
    management_ports: Tuple[int, ...] = ()
    image_plan: Optional[ImagePlan] = None

    @property
    def wishes(self) -> Tuple[Desired, ...]:
        return self.sandboxes or ()


@dataclass(frozen=True)
class Resolved:
    """The run's goal: sandboxes to make right, to remove, and the others, which only look on."""

    targets: Mapping[str, Target]
    removed: tuple[str, ...]
    bystanders: Mapping[str, Record]
    interfaces: Mapping[str, Sequence[Interface]]
    publications: tuple[Publication, ...]

    @property
    def policies(self) -> dict[str, SandboxPolicy]:
        """Of a sandbox with a broken record it is not known, so it reaches nothing."""
        known = {name: entry.policy for name, entry in self.bystanders.items()}
        known.update((name, target.record.policy) for name, target in self.targets.items())
        return {name: known.get(name, network.CLOSED) for name in self.interfaces}

    def desired_network(
        self, networks: Mapping[str, network.Network], members: Sequence[network.Member] = ()
    ) -> network.Desired:
        everyone = [item for items in self.interfaces.values() for item in items]
        return network.Desired(networks, everyone, self.publications, self.policies, members)


def resolve(site: Site, request: Request, seen: Observation) -> Resolved:
    wishes = {wish.name: wish for wish in request.wishes if wish.state != ABSENT}
    leaving = removed(site, request, seen)
    _refuse_broken(wishes, seen)
    bystanders = _bystanders(wishes, leaving, seen)
    kept = _kept_interfaces(leaving, seen)
    attachments = {name: _spec(wish).networks for name, wish in wishes.items()}
    allocated = network.allocate(site, seen.networks, attachments, kept)
    records = _records(site, request, leaving, allocated, seen)
    everyone = {**bystanders, **records}
    modes = {name: record.spec.network_mode for name, record in everyone.items()}
    asked = [name for name in records if not wishes[name].keep_image]
    network.check_partners(modes, changed=records, checked=asked, removed=leaving)
    asked_removals = leaving if request.purge else _absent(request)
    dependencies.check(wishes, everyone, leaving, asked_removals, seen.records.broken)
    asked_modes = {name: modes[name] for name in asked}
    network.check_pins(site, asked_modes, seen.traces, may_be_made=request.check)
    _check_names(everyone)
    launches = {
        name: _launch(site, record, seen, may_be_made=request.check)
        for name, record in records.items()
    }
    publications = _published(everyone.values())
    staying = (record for name, record in seen.records.good.items() if name not in leaving)
    network.check_publications(publications, _published(staying), request.management_ports)
    return Resolved(
        targets={
            name: _target(wishes[name], record, launches[name]) for name, record in records.items()
        },
        removed=leaving,
        bystanders=bystanders,
        interfaces={
            **{name: kept[name] for name in kept if name in seen.records.broken},
            **{name: record.interfaces for name, record in everyone.items()},
        },
        publications=publications,
    )


def _check_names(records: Mapping[str, Record]) -> None:
    members = {name: [i.network for i in item.interfaces] for name, item in records.items()}
    network.check_names(members, etcfiles.names(records))


def with_desired(request: Request, seen: Observation) -> Observation:
    """The host as the images and networks of this run make it, which sandboxes are planned upon."""
    listed = {name: item for name, item in (request.networks or {}).items() if item is not None}
    made = request.image_plan.wanted if request.image_plan else {}
    return replace(
        seen,
        images={**seen.images, **request.made, **made},
        networks={**seen.networks, **listed},
    )


def _spec(wish: Desired) -> Any:
    if wish.spec is None:
        raise SpecError("state", wish.state, f"of sandbox {wish.name} needs a spec")
    return wish.spec


def removed(site: Site, request: Request, seen: Observation) -> tuple[str, ...]:
    """Asked for, not listed while purging, or begun by a run that was killed."""
    if request.sandboxes is None:
        return ()
    wishes = {wish.name for wish in request.wishes if wish.state != ABSENT}
    asked = _absent(request)
    begun = {name for name, record in seen.records.good.items() if record.phase == REMOVING}
    unlisted = {name for name in seen.traces if request.purge and not setup.is_running(site, name)}
    if request.image_plan:
        # Those that a setup left are swept before images are made.
        unlisted = {name for name in unlisted if not setup.SANDBOX.fullmatch(name)}
    found = ((asked | begun | unlisted) & seen.traces) - wishes
    return dependencies.for_removal(found, seen.records.good)


def _absent(request: Request) -> set[str]:
    return {wish.name for wish in request.wishes if wish.state == ABSENT}


def _refuse_broken(wishes: Iterable[str], seen: Observation) -> None:
    for name in wishes:
        if name in seen.records.broken:
            raise seen.records.broken[name]


def _bystanders(
    wishes: Iterable[str], removed: Sequence[str], seen: Observation
) -> dict[str, Record]:
    concerned = {*wishes, *removed}
    return {name: r for name, r in seen.records.good.items() if name not in concerned}


def _kept_interfaces(removed: Sequence[str], seen: Observation) -> dict[str, tuple[Interface, ...]]:
    """Interfaces in use; of a sandbox with a broken record, those its namespaces were given."""
    kept = {name: record.interfaces for name, record in seen.records.good.items()}
    for name in seen.records.broken:
        if name in seen.made:
            kept[name] = seen.made[name].interfaces
    return {name: interfaces for name, interfaces in kept.items() if name not in removed}


def _records(
    site: Site,
    request: Request,
    removed: Sequence[str],
    allocated: Mapping[str, Sequence[Interface]],
    seen: Observation,
) -> dict[str, Record]:
    good = seen.records.good
    wishes = {wish.name: wish for wish in request.wishes if wish.state != ABSENT}
    recorded = {name: record.ids for name, record in good.items()}
    ids = idmap.allocate(seen.ids, wishes, reserved=recorded, leaving=removed)
    records = {}
    for name, wish in wishes.items():
        old = good.get(name)
        spec = _spec(wish)
        with _named(name):
            cgroups.check(spec, seen.cgroups)
            image = _image(site, wish, old, ids[name], seen, may_be_made=request.check)
        records[name] = Record(
            name=name,
            phase=PRESENT,
            wanted=wanted(wish, old),
            spec=spec,
            ids=ids[name],
            image=image,
            interfaces=tuple(allocated.get(name, ())),
        )
    return records


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors about one value of many sandboxes say whose it is."""
    try:
        yield
    except SandlotError as error:
        error.message = f"sandbox {name!r}: {error.message}"
        raise


def _image(
    site: Site,
    wish: Desired,
    old: Record | None,
    ids: idmap.IdRange,
    seen: Observation,
    *,
    may_be_made: bool,
) -> ImageRef:
    """The image and the tree of it that the layer lies on; a tree in use stays what it is."""
    if old and wish.keep_image:
        return old.image
    name = _spec(wish).image
    if old and images.is_pinned_to(name, old.image.name, old.image.digest):
        return old.image
    found = images.find(seen.images, name)
    if old and (old.image.name, old.image.digest) == (found.name, found.digest):
        return old.image
    if not may_be_made:
        images.check_made(found)
    layers = found.layers if _maps_ids(found, seen) else _shifted(site, found, ids)
    return ImageRef(
        found.name, found.digest, layers, dict(found.host), found.tmpfs, dict(found.config)
    )


def _maps_ids(image: images.Image, seen: Observation) -> bool:
    needed = [*image.layers, *(["/"] if image.host else [])]
    return all(seen.maps_ids(path) for path in needed)


def _shifted(site: Site, image: images.Image, ids: idmap.IdRange) -> tuple[str, ...]:
    """A copy with moved owners stands in for one tree of our own, and for nothing else."""
    if image.host or not images.is_one_tree(site, image):
        raise SpecError(
            "image",
            image.name,
            "needs id-mapped mounts, which the file system it lies on does not have",
            hint="use a source that makes one tree (tarball, debootstrap, oci) without setup, "
            "or another file system or kernel",
        )
    return (images.shifted(site, image, ids),)


def _launch(site: Site, record: Record, seen: Observation, *, may_be_made: bool) -> dict[str, Any]:
    directories = cgroups.directories(site, record.name, seen.cgroups)
    if may_be_made and not all(map(os.path.isdir, record.image.layers)):
        # Only the image can tell what it runs, once it is made.
        unknown = record.spec.command or record.spec.entrypoint or ("unknown",)
        record = replace(record, spec=replace(record.spec, command=unknown))
    launch = launchfile.content(site, record, directories)
    observed = seen.seen.get(record.name)
    running = observed.running if observed else None
    if running in (None, launch["digest"]):
        return launch
    current = launchfile.decoded(launchfile.current(site, record.name))
    return launchfile.as_started(launch, current, str(running))


def _target(wish: Desired, record: Record, launch: Mapping[str, Any]) -> Target:
    return Target(wish, record, launch, launchfile.namespace_digest(launch, record))


def _published(records: Iterable[Record]) -> tuple[Publication, ...]:
    return tuple(
        entry
        for record in records
        for entry in network.publications(
            record.name, record.interfaces, record.spec.published_ports
        )
    )
