# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Clones: sandboxes that get their first layer, and their volumes, from a snapshot.

A file beside the record names the content until the sandbox has it, so that any run which follows
a killed one completes the clone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any, Dict, List, Mapping, Tuple

from .. import images, sizes, store, volumes
from ..configuration import copying
from ..errors import SandlotError, StateError
from ..images.identity import FIRST_START
from ..kernel.copying import copy_directory
from ..kernel.trees import empty
from ..plan import Operation
from ..sandbox import mounts
from ..sandbox.record import REBUILDING, ImageRef, Record, Records
from ..site import Site
from ..snapshots import content, identity
from ..snapshots import store as snapshots
from ..snapshots.content import Content
from ..snapshots.model import Snapshot
from ..spec import Spec, normalise, stored
from ..spec.names import default_hostname
from ..spec.options import BY_NAME
from ..volumes import image_volume
from .context import Context
from .decide import ABSENT, Desired
from .resolve import Request

_FIXED = ("ipv4_address", "ipv6_address", "mac_address")


def request(
    site: Site,
    snapshot: Snapshot,
    name: str,
    options: Mapping[str, Any],
    *,
    copied: bool,
    force: bool,
    check: bool,
) -> Request:
    """The request that makes a clone; with ``copied``, its volumes are filled from the snapshot."""
    original = snapshot.record
    if original is None:
        raise SandlotError(
            f"snapshot {snapshot.name} has no record of its sandbox, so no options",
            hint=f"deploy {name} with the options that it is to have, and restore a snapshot there",
        )
    names = _volume_names(original, name)
    spec = copying.filled(site, original.name, _spec(original, name, names, options))
    for fresh in names.values():
        if os.path.lexists(site.volume(fresh).state) and not is_begun(site, name):
            hint = f"remove it, or clone to another name than {name}"
            raise SandlotError(f"volume {fresh} exists already", hint=hint)
    filled = {old: names[old] for old in snapshot.volumes if old in names} if copied else {}
    wanted = Content(
        snapshot,
        filled,
        clone=True,
        image=_image(site, snapshot, force=force),
        config={} if check else _config(site, snapshot),
    )
    state = spec.state if "state" in options else original.wanted
    return Request((Desired(name, state, spec, content=wanted),), check=check)


def _volume_names(original: Record, name: str) -> Dict[str, str]:
    """A new name for each volume: two sandboxes that write to one would destroy it."""
    of_image = {old: image_volume(name, place) for place, old in original.volumes.items()}
    return {old: of_image.get(old, f"{name}.{old}") for old in mounts.volume_names(original)}


def _spec(
    original: Record, name: str, names: Mapping[str, str], options: Mapping[str, Any]
) -> Spec:
    """The spec of the original, without what only one sandbox can have, and with ``options``."""
    raw = stored.to_json(original.spec)
    if raw.get("hostname") == default_hostname(original.name):
        raw.pop("hostname")
    raw.pop("published_ports", None)
    raw["networks"] = [
        {key: value for key, value in item.items() if key not in _FIXED}
        for item in raw.get("networks") or ()
    ]
    if raw.get("volumes"):
        raw["volumes"] = [_renamed(text, names) for text in raw["volumes"]]
    for mount in raw.get("mounts") or ():
        if mount.get("type") == "volume":
            mount["source"] = names[mount["source"]]
    # Digests become what the parsers take, which users can't write.
    own = {key: BY_NAME[key].load(value) for key, value in raw.items()}
    return normalise({**own, **options, "name": name})


def _renamed(text: str, names: Mapping[str, str]) -> str:
    source, dummy, rest = text.partition(":")
    return text if source.startswith("/") else f"{names[source]}:{rest}"


def _image(site: Site, snapshot: Snapshot, *, force: bool) -> ImageRef | None:
    """The image below a snapshot's layer; None for the one that has its name now."""
    if snapshot.record is None:
        return None
    ref = snapshot.record.image
    known = images.observe(site).get(ref.name)
    if known is not None and (force or known.digest == ref.digest):
        return None
    shifted = any(os.path.basename(path).startswith("shifted-") for path in ref.layers)
    if ref.layers and not shifted and all(map(os.path.isdir, ref.layers)):
        return ref
    raise SandlotError(
        f"snapshot {snapshot.name} is a layer of image {ref.name} ({ref.digest[:12]}), which this"
        " host does not have",
        hint="deploy that image first (sandbox_rootfs), or set force: true to put the layer on the"
        " image that has this name now",
    )


def _config(site: Site, snapshot: Snapshot) -> Mapping[str, Any]:
    """Additions to the config of the image: who had host keys makes new ones."""
    with content.layer_of(site, snapshot) as layer:
        return {FIRST_START: True} if identity.has_host_keys(layer) else {}


# -- the file that names the content of a clone


def is_begun(site: Site, name: str) -> bool:
    return os.path.lexists(site.sandbox(name).clone)


def begin(site: Site, request: Request) -> None:
    """Note the content of the clones of a request."""
    for name, desired in request.desired.items():
        wanted = desired.content
        if wanted is None or not wanted.clone:
            continue
        os.makedirs(site.sandboxes, mode=0o700, exist_ok=True)
        os.makedirs(site.sandbox(name).state, mode=0o700, exist_ok=True)
        data = {
            "sandbox": wanted.snapshot.sandbox,
            "snapshot": wanted.snapshot.id,
            "volumes": dict(wanted.volumes),
            "image": wanted.image.to_json() if wanted.image else None,
            "config": dict(wanted.config),
        }
        store.write(site.sandbox(name).clone, data)


def resumed(site: Site, request: Request, records: Records) -> Request:
    """The request, with the content of clones that a killed run began."""
    if request.sandboxes is None:
        return request
    return replace(request, sandboxes=tuple(_resumed(site, d, records) for d in request.sandboxes))


def _resumed(site: Site, desired: Desired, records: Records) -> Desired:
    known = records.good.get(desired.name)
    begun = desired.content is None and known is not None and known.phase == REBUILDING
    if desired.state == ABSENT or not begun or not is_begun(site, desired.name):
        return desired
    path = site.sandbox(desired.name).clone
    hint = f"remove the sandbox (sandlot rm {desired.name}), and clone again"
    data = store.read(path, hint=hint) or {}
    try:
        wanted = Content(
            snapshots.load(site, str(data["sandbox"]), str(data["snapshot"])),
            {str(old): str(new) for old, new in data["volumes"].items()},
            clone=True,
            image=ImageRef.from_json(data["image"]) if data["image"] else None,
            config=data["config"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} has a missing or wrong field ({error!r})", hint=hint) from error
    return replace(desired, content=wanted)


# -- phases of a run


def fill_volumes(context: Context) -> List[Operation]:
    """Fill the volumes of clones, which the run has made empty."""
    return [
        Operation(
            f"volume {new}",
            f"copy that of snapshot {wanted.snapshot.name}",
            partial(_fill, context.site, wanted, old, new),
            subject=name,
        )
        for name, wanted in _clones(context)
        for old, new in wanted.volumes.items()
    ]


def _fill(site: Site, wanted: Content, old: str, new: str) -> None:
    volume = volumes.load(site, new)
    if volume is None or (volume.populated and not volume.copying):
        return
    volumes.save(site, replace(volume, copying=True))
    paths = site.snapshot(wanted.snapshot.sandbox, wanted.snapshot.id)
    data = sizes.opened(volumes.place(site, new))
    empty(data)
    copy_directory(content.volume_of(paths, old), data)
    volumes.save(site, replace(volume, copying=False, populated=True))


def end(context: Context) -> List[Operation]:
    """Forget the content of clones that have it."""

    def forget(name: str) -> None:
        store.remove(context.site.sandbox(name).clone)

    return [
        Operation(name, "end the clone", partial(forget, name), subject=name, silent=True)
        for name, dummy in _clones(context)
    ]


def _clones(context: Context) -> List[Tuple[str, Content]]:
    decided = ((name, decision.content) for name, decision in context.decisions.items())
    return [(name, wanted) for name, wanted in decided if wanted is not None and wanted.clone]
