# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves a request to targets: makes every check that can refuse it, and every allocation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Dict, FrozenSet, Iterable, Mapping, Optional, Sequence, Set, Tuple

from .. import cgroups, idmap, image_change, images, network, profiles
from ..errors import SandlotError, SpecError
from ..images import Image, ImagePlan, setup
from ..kernel import mountinfo
from ..network import Interface, Publication, SandboxPolicy
from ..plan import Change
from ..sandbox import devices, etcfiles, launchfile, mounts
from ..sandbox.record import PRESENT, REMOVING, ImageRef, Record
from ..site import Site
from ..spec import comparisons
from ..spec.names import check_new
from ..volumes import VolumeSpec, image_volume
from . import bind_checks, dependencies, placing
from .decide import ABSENT, Desired, Observed, Target, rebuild_reason, run_state
from .observe import Observation


@dataclass(frozen=True)
class Request:
    """The desired sandboxes, networks, images and volumes of a host; None leaves a kind alone.

    ``networks`` maps the name of an absent network to None. ``purge`` removes unlisted items of the
    listed kinds but volumes; ``purge_volumes`` removes those that nobody uses, ``purge_snapshots``
    snapshots of sandboxes that are not there after the run, with the layers that it drops.
    ``set_aside`` keeps the layers of sandboxes that are removed by name, as a purge does. ``tidy``
    removes old snapshots also in a run without another change. ``prune`` removes image trees that
    nothing refers to. ``repair`` sets the network of the sandboxes and nothing else. ``resume``
    starts sandboxes whatever their dependencies do. For ``watch`` seconds, the run watches for ends
    of workloads that it started. ``unrecorded`` images are still being built. ``uploads`` maps
    archives of images to their copies on the host, None when the controller copies none.
    ``management_ports`` are never published. ``image_plan`` is made from ``images``, after a look
    at their sources. With ``diff``, the result shows files as text. With a ``scope``, the run looks
    at these sandboxes and takes the rest of the host as being in order. ``allow_changes`` is the
    greatest change of sandboxes that the request does not name: those that a purge removes, and
    those that share the network of another one. A host that ``has_no_mask`` yet gets one by the
    run.
    """

    sandboxes: Optional[Tuple[Desired, ...]] = None
    networks: Optional[Mapping[str, Optional[network.Network]]] = None
    images: Optional[Tuple[images.ImageSpec, ...]] = None
    volumes: Optional[Mapping[str, VolumeSpec]] = None
    purge: bool = False
    purge_volumes: bool = False
    purge_snapshots: bool = False
    set_aside: bool = False
    tidy: bool = False
    prune: bool = False
    check: bool = False
    repair: bool = False
    resume: bool = False
    watch: float = 0.0
    unrecorded: Mapping[str, Image] = field(default_factory=dict)
    uploads: Optional[Mapping[str, str]] = None
    management_ports: Tuple[int, ...] = ()
    image_plan: Optional[ImagePlan] = None
    diff: bool = False
    scope: Optional[FrozenSet[str]] = None
    allow_changes: Change = Change.REBUILD
    has_no_mask: bool = False

    @property
    def desired(self) -> Dict[str, Desired]:
        """Sandboxes that are to exist."""
        return {
            desired.name: desired for desired in self.sandboxes or () if desired.state != ABSENT
        }

    @property
    def absent(self) -> Set[str]:
        return {desired.name for desired in self.sandboxes or () if desired.state == ABSENT}


@dataclass(frozen=True)
class Resolved:
    """The goal of a run: sandboxes to converge, sandboxes to remove, and unchanged bystanders."""

    targets: Mapping[str, Target]
    removed: tuple[str, ...]
    bystanders: Mapping[str, Record]
    interfaces: Mapping[str, Sequence[Interface]]
    publications: tuple[Publication, ...]

    @property
    def policies(self) -> dict[str, SandboxPolicy]:
        """A broken record has no known policy: deny everything."""
        known = {name: record.policy for name, record in self.bystanders.items()}
        known.update((name, target.record.policy) for name, target in self.targets.items())
        return {name: known.get(name, network.CLOSED) for name in self.interfaces}

    @property
    def plugs(self) -> list[Interface]:
        """The interfaces of all sandboxes."""
        return [item for items in self.interfaces.values() for item in items]

    def desired_network(
        self, networks: Mapping[str, network.Network], members: Sequence[network.Member] = ()
    ) -> network.Desired:
        return network.Desired(networks, self.plugs, self.publications, self.policies, members)


def resolve(site: Site, request: Request, observed: Observation) -> Resolved:
    desired, leaving = request.desired, removed(site, request, observed)
    good = observed.records.good
    for name in desired:
        if name in observed.records.broken:
            raise observed.records.broken[name]
        if name not in good:
            check_new(name)
    bystanders = {n: record for n, record in good.items() if n not in {*desired, *leaving}}
    kept = _kept_interfaces(leaving, observed)
    attachments = {name: sandbox.wanted_spec.networks for name, sandbox in desired.items()}
    allocated = network.allocate(site, observed.networks, attachments, kept)
    records = _records(site, request, leaving, allocated, observed)
    everyone = {**bystanders, **records}
    modes = {name: record.spec.network_mode for name, record in everyone.items()}
    asked = [name for name in records if not desired[name].keep_image]
    network.check_partners(modes, changed=records, checked=asked, removed=leaving)
    asked_removals = leaving if request.purge else request.absent
    dependencies.check(desired, everyone, leaving, asked_removals, observed.records.broken)
    jobs = dependencies.awaited(everyone.values())
    asked_modes = {name: modes[name] for name in asked}
    network.check_pins(site, asked_modes, observed.known, may_be_made=request.check)
    members = {name: [i.network for i in item.interfaces] for name, item in everyone.items()}
    network.check_names(members, etcfiles.names(everyone))
    publications = published(everyone.values())
    staying = published(record for name, record in good.items() if name not in leaving)
    network.check_publications(publications, staying, request.management_ports)
    return Resolved(
        targets={
            name: replace(
                _target(site, desired[name], record, observed, may_be_made=request.check),
                job=name in jobs,
            )
            for name, record in records.items()
        },
        removed=leaving,
        bystanders=bystanders,
        interfaces={
            **{name: kept[name] for name in kept if name in observed.records.broken},
            **{name: record.interfaces for name, record in everyone.items()},
        },
        publications=publications,
    )


def with_desired(request: Request, observed: Observation) -> Observation:
    """The host with the images and networks of this run; sandboxes are planned on top."""
    listed = {name: item for name, item in (request.networks or {}).items() if item is not None}
    made = request.image_plan.wanted if request.image_plan else {}
    return replace(
        observed,
        images={**observed.images, **request.unrecorded, **made},
        networks={**observed.networks, **listed},
    )


def removed(site: Site, request: Request, observed: Observation) -> tuple[str, ...]:
    """Sandboxes to remove: absent, unlisted while purging, or half removed by a killed run."""
    if request.sandboxes is None:
        return ()
    records, names = observed.records.good, set(request.absent)
    names.update(name for name, record in records.items() if record.phase == REMOVING)
    if request.purge:
        # An image plan removes leftover setup sandboxes before images are built.
        names.update(
            name
            for name in observed.known
            if not (request.image_plan and setup.SANDBOX.fullmatch(name))
            and not setup.is_running(site, name)
        )
    return dependencies.for_removal((names & observed.known) - set(request.desired), records)


def _kept_interfaces(
    removed: Sequence[str], observed: Observation
) -> dict[str, tuple[Interface, ...]]:
    """Interfaces in use; for a broken record, the ones in the namespace record."""
    kept = {name: record.interfaces for name, record in observed.records.good.items()}
    for name in observed.records.broken:
        if name in observed.namespaces:
            kept[name] = observed.namespaces[name].interfaces
    return {name: interfaces for name, interfaces in kept.items() if name not in removed}


def _records(
    site: Site,
    request: Request,
    removed: Sequence[str],
    allocated: Mapping[str, Sequence[Interface]],
    observed: Observation,
) -> dict[str, Record]:
    good, desired = observed.records.good, request.desired
    recorded = {name: record.ids for name, record in good.items()}
    ids = idmap.allocate(observed.ids, desired, reserved=recorded, leaving=removed)
    records = {}
    # One look at all mounts: a host has some for each sandbox.
    kinds = cache(mountinfo.kinds)
    for name, sandbox in desired.items():
        old = good.get(name)
        try:
            cgroups.check(sandbox.wanted_spec, observed.cgroups)
            if not sandbox.keep_image:
                runs = old is not None and observed.sandboxes[name].running
                granted = old.spec.devices if old is not None and runs else ()
                devices.check(sandbox.wanted_spec.devices, granted)
                had = old.spec if old is not None and runs else None
                spec, may_be_made = sandbox.wanted_spec, request.check
                bind_checks.check(
                    site, spec, had, observed.maps_ids, kinds, may_be_made=may_be_made
                )
            image = _image(site, sandbox, old, ids[name], observed, may_be_made=request.check)
            if sandbox.content:
                image = replace(image, config={**image.config, **sandbox.content.config})
        except SandlotError as error:
            # An error about a value does not name the sandbox.
            error.name(f"sandbox {name!r}")
            raise
        record = Record(
            name=name,
            phase=PRESENT,
            wanted=run_state(sandbox, old),
            spec=sandbox.wanted_spec,
            ids=ids[name],
            image=image,
            interfaces=tuple(allocated.get(name, ())),
        )
        record = _with_volumes(site, sandbox, _of_layer(sandbox, record, observed), observed)
        seen = observed.sandboxes.get(name, Observed())
        try:
            records[name] = placing.with_owners(
                site, sandbox, record, seen, may_be_made=request.check
            )
        except SpecError as error:
            error.name(f"sandbox {name!r}")
            raise
    return records


def _with_volumes(site: Site, desired: Desired, record: Record, observed: Observation) -> Record:
    """The record with volumes for the VOLUMEs of its image, which a sandbox gets with its layer.

    Layers of earlier versions hold the files of these directories themselves.
    """
    seen = observed.sandboxes.get(record.name, Observed())
    if seen.record is not None and not rebuild_reason(desired, record, seen):
        return replace(record, volumes=seen.record.volumes)
    in_memory, of_setup = bool(record.image.tmpfs), bool(setup.SANDBOX.fullmatch(record.name))
    targets = [] if in_memory or of_setup else mounts.image_targets(record)
    if not targets or not observed.maps_ids(site.volumes):
        return record
    return replace(record, volumes={path: image_volume(record.name, path) for path in targets})


def _of_layer(desired: Desired, record: Record, observed: Observation) -> Record:
    """The record with the default of ``on_image_change``, which a sandbox gets with its layer.

    Layers of earlier versions have none: they are kept, as these versions would have done.
    """
    known = observed.images.get(record.image.name)
    if desired.keep_image or known is None:
        return record
    seen = observed.sandboxes.get(record.name, Observed())
    fresh = _with_default(record, images.on_image_change(known))
    if seen.record is None or rebuild_reason(desired, fresh, seen):
        return fresh
    return _with_default(record, image_change.chosen(None, seen.record.image.config))


def _with_default(record: Record, default: str) -> Record:
    others = {k: v for k, v in record.image.config.items() if k != image_change.OPTION}
    chosen = {} if default == image_change.KEEP else {image_change.OPTION: default}
    return replace(record, image=replace(record.image, config={**others, **chosen}))


def _image(
    site: Site,
    desired: Desired,
    old: Record | None,
    ids: idmap.IdRange,
    observed: Observation,
    *,
    may_be_made: bool,
) -> ImageRef:
    """The image of a sandbox, with the trees below its layer; trees in use stay the same."""
    if old and desired.keep_image:
        return old.image
    if old and comparisons.ignores(desired.wanted_spec, "image"):
        return _with_profile(old.image, observed)
    if desired.content and desired.content.image:
        return desired.content.image
    name = desired.wanted_spec.image
    if old and images.is_pinned_to(name, old.image.name, old.image.digest):
        return _with_profile(old.image, observed)
    image = images.find(observed.images, name)
    if old and (old.image.name, old.image.digest) == (image.name, image.digest):
        return _with_profile(old.image, observed)
    if not may_be_made:
        images.check_made(image)
    needed = [*image.layers, *(["/"] if image.host else [])]
    mapped = all(observed.maps_ids(path) for path in needed)
    layers = image.layers if mapped else _shifted(site, image, ids)
    made = ImageRef(
        image.name, image.digest, layers, dict(image.host), image.tmpfs, dict(image.config)
    )
    return _with_profile(made, observed)


def _with_profile(image: ImageRef, observed: Observation) -> ImageRef:
    """The image with the default of ``security_profile``, which earlier versions do not record."""
    known = observed.images.get(image.name)
    if known is None or profiles.OPTION in image.config:
        return image
    profile = images.profile(known, observed.images)
    # Records of images with the usual default stay as they are.
    chosen = {} if profile == profiles.STRICT else {profiles.OPTION: profile}
    return replace(image, config={**image.config, **chosen})


def _shifted(site: Site, image: images.Image, ids: idmap.IdRange) -> tuple[str, ...]:
    """The copy with shifted owners; only an image of a single tree that we built can have one."""
    if image.host or not images.is_one_tree(site, image):
        raise SpecError(
            "image",
            image.name,
            "needs id-mapped mounts, which the file system it lies on does not have",
            hint="use a source that makes one tree (tarball, debootstrap, oci) without setup, "
            "or another file system or kernel",
        )
    return (images.shifted(site, image, ids),)


def _target(
    site: Site, desired: Desired, record: Record, observed: Observation, *, may_be_made: bool
) -> Target:
    image, runs = record.image, record
    if may_be_made and not placing.is_made(record):
        # The config of an image that is not built yet is unknown, and it may have the command.
        unknown = record.spec.command or record.spec.entrypoint or ("unknown",)
        spec, unbuilt = replace(record.spec, command=unknown), replace(image, config={})
        runs = replace(record, spec=spec, image=unbuilt)
    directories = cgroups.directories(site, record.name, observed.cgroups)
    launch = launchfile.content(site, runs, directories)
    now = observed.sandboxes.get(record.name)
    if now is not None and now.running not in (None, launch["digest"]):
        current = launchfile.decoded(launchfile.current(site, record.name))
        launch = launchfile.as_started(launch, current, str(now.running))
    return Target(desired, record, launch, launchfile.namespace_digest(launch, record))


def published(records: Iterable[Record]) -> tuple[Publication, ...]:
    return tuple(
        entry
        for record in records
        for entry in network.publications(
            record.name, record.interfaces, record.spec.published_ports
        )
    )
