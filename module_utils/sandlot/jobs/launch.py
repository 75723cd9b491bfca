# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The launch file of a job: its options resolved as those of a sandbox are, without a record."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Dict, Mapping, NamedTuple

from .. import cgroups, idmap, images, lock, network, profiles, spec, volumes
from ..errors import SpecError
from ..host import probe
from ..images import Image
from ..kernel import mountinfo
from ..plan import apply_all
from ..sandbox import devices, etcfiles, launchfile, names
from ..sandbox.job_slots import Slot
from ..sandbox.record import PRESENT, STARTED, ImageRef, Record, load
from ..site import Site
from ..spec import mounts, netmode
from .job import UNUSED, Job, TakenIds, words

Json = Dict[str, Any]
_FIXED = {"restart_policy": "no", "state": "started"}


def prepare(site: Site, job: Job, slot: Slot) -> Json:
    """The launch file of ``job``; its parent cgroups, hosts files and trees of the image exist."""
    wanted, known, image, state, command = check(site, job, slot.paths.name.lstrip("."))
    ids = idmap.of_job(idmap.observe(site), slot.number)
    if ids is None:
        raise TakenIds(f"the ids of job {slot.number} are somebody else's")
    record = _record(slot, wanted, ids, _reference(site, image, known, ids))
    directories = cgroups.directories(site, record.name, state)
    launch = launchfile.content(site, record, directories)
    around = etcfiles.surroundings(network.load(site), _with_partner(site, record), {})
    named = replace(record, name=wanted.name)
    files = etcfiles.contents(named, around)
    with lock.exclusive(site):
        if launchfile.is_shifted(record.image):
            apply_all(images.shift_operations(site, image, ids))
        # Last, as it makes the job's own cgroups: a failure after it would leave them.
        limits = cgroups.fresh(site, record.name, wanted, state)
    own = {
        **command,
        "disk_size": wanted.disk_size,
        "limits": limits,
        "etc": {name: text.decode() for name, text in files.items()},
    }
    # Init has the key, by which it waits for a client and ends with it.
    return {**launch, "job": own, "init": [*launch.get("init", ()), "job"]}


class Checked(NamedTuple):
    """A job that can run here, and what of the host was looked at; ``command`` as in its file."""

    wanted: spec.Spec
    images: Mapping[str, Image]
    image: Image
    cgroups: cgroups.CgroupState
    command: Json


def check(site: Site, job: Job, name: str = "job") -> Checked:
    """Refuse what this host has not, or can't enforce, without a trace of the job."""
    wanted = _spec(job, name)
    known = images.observe(site)
    image = images.find(known, wanted.image)
    images.check_made(image)
    state = cgroups.observe(site, [])
    cgroups.check(wanted, state)
    devices.check(wanted.devices)
    _check_network(site, wanted)
    if mounts.of(wanted):
        _check_mounts(site, wanted)
    command = _command(wanted, image)
    words(job, **command)
    return Checked(wanted, known, image, state, command)


def _check_network(site: Site, wanted: spec.Spec) -> None:
    partner = wanted.network_partner
    if partner and load(site, partner) is None:
        known = ", ".join(names.recorded(site)) or "there is none"
        problem = "names no sandbox of this host"
        raise SpecError("network_mode", wanted.network_mode, problem, hint=f"known: {known}")
    present = network.load(site) if wanted.networks else {}
    for name in (attachment.name for attachment in wanted.networks):
        if name not in present:
            hint = f"known: {', '.join(sorted(present)) or 'there is none'}"
            raise SpecError("networks", name, "is no network of this host", hint=hint)


def _check_mounts(site: Site, wanted: spec.Spec) -> None:
    # Not at the top, as it takes as long to import as all the rest.
    from ..converge import bind_checks

    kinds = cache(mountinfo.kinds)
    bind_checks.check(site, wanted, None, probe.maps_ids, kinds, may_be_made=False)
    for mount in mounts.of(wanted):
        if mount.type == mounts.VOLUME and volumes.load(site, mount.source) is None:
            known = ", ".join(volumes.names(site)) or "there is none"
            hint = f"known: {known}; a deploy makes those of sandbox_volumes"
            raise SpecError("volumes", mount.source, "is no volume of this host", hint=hint)


def _spec(job: Job, name: str) -> spec.Spec:
    options = {**({} if job.is_networked else {"network_mode": netmode.NONE}), **job.options}
    mode = options.get("network_mode")
    if mode in (netmode.HOST, netmode.BRIDGE):
        hint = "use none, or container:NAME of a sandbox"
        raise SpecError("network_mode", mode, "is not for jobs", hint=hint)
    raw = {**options, **_FIXED, "name": name, "image": job.image, "command": list(UNUSED)}
    return spec.normalise(raw)


def _reference(
    site: Site, image: Image, known: Mapping[str, Image], ids: idmap.IdRange
) -> ImageRef:
    layers = image.layers
    needed = [*layers, *(["/"] if image.host else [])]
    if not all(map(probe.maps_ids, needed)):
        if image.host or not images.is_one_tree(site, image):
            hint = "use an image of one tree (tarball, debootstrap, oci) without setup"
            problem = "needs id-mapped mounts, which the file system it lies on does not have"
            raise SpecError("image", image.name, problem, hint=hint)
        layers = (images.shifted(site, image, ids),)
    profile = {profiles.OPTION: images.profile(image, known)}
    config = {**(profile if profile[profiles.OPTION] != profiles.STRICT else {}), **image.config}
    return ImageRef(image.name, image.digest, layers, dict(image.host), image.tmpfs, config)


def _record(slot: Slot, wanted: spec.Spec, ids: idmap.IdRange, image: ImageRef) -> Record:
    # Keys of the host are made in a minute, by a preparation that jobs do without.
    config = {key: value for key, value in image.config.items() if key != "first_start"}
    return Record(
        name=slot.paths.name,
        phase=PRESENT,
        wanted=STARTED,
        spec=wanted,
        ids=ids,
        image=replace(image, config=config),
    )


def _with_partner(site: Site, record: Record) -> Dict[str, Record]:
    """The job, and the sandbox whose network it shares."""
    partner = record.spec.network_partner
    known = load(site, partner) if partner else None
    return {record.name: record, **({partner: known} if known else {})}


def _command(wanted: spec.Spec, image: Image) -> Json:
    """The two parts of a command line, the second one for a job that names no command."""
    config = image.config
    return {
        "entrypoint": list(wanted.entrypoint or config.get("entrypoint", ())),
        "command": [] if wanted.entrypoint else list(config.get("command", ())),
    }
