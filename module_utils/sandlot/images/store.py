# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plans the images of a host: which to build, to record and to remove."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Callable, Dict, FrozenSet, Iterable, List, Mapping, Sequence, Set, Tuple

from .. import lock, store
from ..errors import SpecError
from ..kernel import files
from ..kernel.trees import remove_entry
from ..plan import Change, Operation
from ..site import Site
from . import build, progress, records, setup, workspace
from .build import Making
from .model import Image, ImageSpec
from .records import Use
from .setup import Runner
from .sources import of

# -- planning


@dataclass(frozen=True)
class ImagePlan:
    """The plan for all images; ``wanted`` are the listed images after the run, ``absent`` names.

    ``sweeps`` and the trees of ``makings`` need no lock. With ``prune``, the run removes trees that
    nothing refers to, even if no image changes.
    """

    wanted: Mapping[str, Image]
    absent: FrozenSet[str]
    sweeps: Sequence[Operation]
    makings: Sequence[Making]
    purge: bool = False
    prune: bool = False

    def as_made(self) -> ImagePlan:
        """The plan with the facts of its trees, after they are built."""
        made = {making.name: making.as_made() for making in self.makings}
        return replace(self, wanted={**self.wanted, **made})

    def after(self, known: Mapping[str, Image]) -> Dict[str, Image]:
        """The images of the host after the run; ``known`` are the present ones."""
        staying = {} if self.purge else known
        images = {**staying, **self.wanted}
        return {name: image for name, image in images.items() if name not in self.absent}


def planned(
    site: Site,
    specs: Sequence[ImageSpec],
    *,
    purge: bool = False,
    prune: bool = False,
    run_setup: Runner | None = None,
) -> ImagePlan:
    """Plan images; sources may ask a registry, so the caller must not hold the writer lock."""
    known = records.observe(site)
    present = desired(site, specs, purge=purge)
    listed = [spec for spec in specs if spec.state == "present"]
    makings = [
        _present(site, spec, known.get(spec.name), present[spec.name], run_setup) for spec in listed
    ]
    # A killed run may have left parts of these builds, which this run resumes.
    awaited = {image.base for image in present.values() if not build.is_made(site, image.base)}
    return ImagePlan(
        wanted={spec.name: present[spec.name] for spec in listed},
        absent=frozenset(spec.name for spec in specs if spec.state == "absent"),
        sweeps=_leftovers(site, awaited),
        makings=[making for making in makings if making],
        purge=purge,
        prune=prune,
    )


def removals(
    site: Site, plan: ImagePlan, known: Mapping[str, Image], used: Callable[[], Sequence[Use]]
) -> List[Operation]:
    """Remove images at the end of a run, with the writer lock.

    ``used`` tells the images in use; it reads all records, and most runs remove none.
    """
    after = plan.after(known)
    gone = [name for name in known if name not in after]
    if not (gone or plan.sweeps or plan.makings or plan.purge or plan.prune):
        return []
    in_use = used()
    records.check_unused(gone, in_use)
    operations = [_removal(site, known[name]) for name in gone]
    return [*operations, *_prune(site, _trees(site, after.values()), in_use)]


def operations(
    site: Site,
    specs: Sequence[ImageSpec],
    *,
    purge: bool = False,
    run_setup: Runner | None = None,
) -> List[Operation]:
    """The operations of a run for images alone; each takes the lock for itself."""
    plan = planned(site, specs, purge=purge, run_setup=run_setup)
    going = removals(site, plan, records.observe(site), lambda: records.uses(site))
    making = [operation.operation(operation.make) for operation in plan.makings]
    return [*plan.sweeps, *making, *(_locked(site, operation) for operation in going)]


def _locked(site: Site, operation: Operation) -> Operation:
    def action() -> None:
        with lock.exclusive(site):
            operation.apply()

    return replace(operation, action=action)


def desired(site: Site, specs: Sequence[ImageSpec], *, purge: bool = False) -> Dict[str, Image]:
    """The images that the host is to have; a digest is "" while the source is missing."""
    known = records.observe(site)
    wanted = {} if purge else dict(known)
    for spec in specs:
        if spec.state == "present":
            recorded = known.get(spec.name)
            image = _wanted(site, spec, recorded, wanted)
            # One above a base has a time of its own.
            same = recorded if recorded == image else image
            wanted[spec.name] = replace(image, made=same.made)
        else:
            wanted.pop(spec.name, None)
    return wanted


def prune_operations(site: Site, *, unused: bool = False) -> List[Operation]:
    """Removes trees and copies that neither an image nor a sandbox refers to; with ``unused``,
    images that no sandbox uses as well."""
    known, used = records.observe(site), records.uses(site)
    names = {use.image for use in used}
    gone = [name for name in known if unused and name not in names]
    kept = [image for name, image in known.items() if name not in gone]
    going = [_removal(site, known[name]) for name in gone]
    going += _prune(site, _trees(site, kept), used)
    return [*_leftovers(site, set()), *(_locked(site, operation) for operation in going)]


def _wanted(site: Site, spec: ImageSpec, known: Image | None, others: Mapping[str, Image]) -> Image:
    source = of(spec)
    same = known if known is not None and known.source == spec.source else None
    below = _below(site, spec, same, others)
    digest, layers = below.digest, below.layers
    if spec.setup and digest:
        digest = setup.digest(digest, spec.setup)
        layers = (_root(site, digest), *layers)
    # The tree may have been made for another image.
    config = records.about(site, digest).get("config", below.config)
    tmpfs = source.tmpfs(spec) if source.tmpfs else ""
    if tmpfs and digest:
        digest = hashlib.sha256(f"{digest} tmpfs {tmpfs}".encode()).hexdigest()
    return replace(
        below,
        name=spec.name,
        digest=digest,
        layers=layers,
        source=spec.source,
        parameters=source.parameters(spec),
        tmpfs=tmpfs,
        config=config,
    )


def _below(site: Site, spec: ImageSpec, known: Image | None, others: Mapping[str, Image]) -> Image:
    """The image below the setup: of the source, or the base image that the spec names.

    It keeps the facts of the last build, so that a check can show them.
    """
    base = spec.get("base")
    if base:
        if base == spec.name or base not in others:
            names = ", ".join(sorted(set(others) - {spec.name})) or "none"
            hint = f"list it before this one; known images: {names}"
            raise SpecError("base", base, "is not an image of this host", hint=hint)
        if others[base].tmpfs:
            raise SpecError("base", base, "is in memory itself", hint="name the image below it")
        return others[base]
    source = of(spec)
    # Without a digest, the source is gone from this host: the image built from it stays.
    digest = source.digest(spec, known) or (known.base if known else "")
    layers = source.layers(spec)
    if source.build:
        layers = (_root(site, digest),) if digest else ()
    host = source.host(spec) if source.host else {}
    empty = known or Image(spec.name, digest)
    return replace(empty, digest=digest, base=digest, layers=layers, host=host)


def _root(site: Site, digest: str) -> str:
    return f"{workspace.tree(site, digest)}/root"


def _present(
    site: Site, spec: ImageSpec, image: Image | None, wanted: Image, run_setup: Runner | None
) -> Making | None:
    made = bool(wanted.digest) and all(os.path.isdir(layer) for layer in wanted.layers)
    if made and image == wanted:
        return None
    verb, change = ("record" if made else "make again"), Change.LIVE
    if image is None:
        verb = "make"
    elif image.digest != wanted.digest:
        verb, change = "replace", Change.RESTART
    return Making(site, spec, wanted, verb, change, run_setup)


def _removal(site: Site, image: Image) -> Operation:
    def forget() -> None:
        records.check_unused([image.name], records.uses(site))
        store.remove(records.path(site, image.name))

    return Operation(f"image {image.name}", f"remove {image.digest[:12]}", forget)


def _leftovers(site: Site, awaited: Set[str]) -> List[Operation]:
    if not any(_is_leftover(site, name, awaited) for name in files.names(site.images)):
        return []

    def sweep() -> None:
        progress.forget_dead(site)
        for name in files.names(site.images):
            path = f"{site.images}/{name}"
            if not _is_leftover(site, name, awaited):
                continue
            if name.startswith(workspace.TEMPORARY):
                with workspace.temporary(site, name[len(workspace.TEMPORARY) :]):
                    pass
            elif name.startswith(workspace.PARTIAL):
                with workspace.temporary(site, name[len(workspace.PARTIAL) :]):
                    remove_entry(path)
            else:
                os.unlink(path)

    return [Operation("images", "clean up after an interrupted run", sweep)]


def _is_leftover(site: Site, name: str, awaited: Set[str]) -> bool:
    if name.startswith(workspace.TEMPORARY):
        return workspace.is_abandoned(f"{site.images}/{name}")
    if name.startswith(workspace.PARTIAL):
        key = name[len(workspace.PARTIAL) :]
        return key not in awaited and workspace.is_free(site, key)
    return name.endswith(".json.new")


def _prune(site: Site, kept: Set[str], used: Sequence[Use]) -> List[Operation]:
    unused = _unused(site, kept, used)
    if not unused:
        return []
    names = " ".join(f"{digest[:12]}{rest}" for digest, rest in unused)

    def discard() -> None:
        trees = _trees(site, records.observe(site).values())
        for digest, rest in _unused(site, trees, records.uses(site)):
            workspace.discard(site, f"{workspace.tree(site, digest)}{rest}")

    return [Operation("images", f"remove unused {names}", discard)]


def _trees(site: Site, images: Iterable[Image]) -> Set[str]:
    """The trees of all images."""
    return {name for image in images for name in records.trees_of(site, image.layers)}


def _unused(site: Site, kept: Set[str], used: Sequence[Use]) -> List[Tuple[str, str]]:
    """Unused trees as (digest, ""), and unused copies as (digest, "/shifted-START")."""
    for use in used:
        kept = kept | {use.digest, *records.trees_of(site, use.layers)}
    copies = {(use.digest, f"shifted-{use.start}") for use in used}
    all_trees = files.names(workspace.trees(site))
    unused = [(digest, "") for digest in all_trees if digest not in kept]
    for digest in all_trees:
        if digest in kept:
            for name in files.names(workspace.tree(site, digest)):
                if name.startswith("shifted-") and (digest, name) not in copies:
                    unused.append((digest, f"/{name}"))
    return unused
