# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Records of images, and the images that records of sandboxes use.

images/NAME.json             record of one image
images/trees/DIGEST/root     a tree; DIGEST is closed, for the tree holds setuid programs
images/trees/DIGEST/about.json       facts of the build
images/trees/DIGEST/shifted-START    a copy for one sandbox, where mounts can't map ids
images/.tmp-...              a tree that is being built or removed
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence

from .. import store
from ..errors import SpecError, StateError
from ..kernel import files, flock
from ..mask import Mask
from ..site import JobPaths, Site
from ..spec.options import SECRET
from . import workspace
from .model import Image

PIN = "@sha256:"


class Use(NamedTuple):
    """The image that one sandbox uses, by its record."""

    sandbox: str
    image: str
    digest: str
    start: int
    layers: Sequence[str] = ()


def path(site: Site, name: str) -> str:
    # "%" is not a character of image names.
    return f"{site.images}/{name.replace('/', '%2F')}.json"


def observe(site: Site) -> Dict[str, Image]:
    """Every image of this host by name."""
    images: Dict[str, Image] = {}
    for entry in files.names(site.images):
        if not entry.endswith(".json") or entry.startswith("."):
            continue
        file = f"{site.images}/{entry}"
        hint = f"remove {file}; the next run makes the image again"
        data = store.read(file, hint=hint) or {}
        try:
            image = Image.from_json(data)
            if not all(isinstance(text, str) for text in (image.name, image.digest, *image.layers)):
                raise TypeError("name, digest and layers have to be text")
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{file} is not the record of an image: {error}", hint=hint) from error
        images[image.name] = image
    return images


def find(images: Mapping[str, Image], name: str) -> Image:
    """The image called ``name`` or ``name@sha256:DIGEST``; the start of a digest is enough."""
    plain, pinned, dummy = name.partition(PIN)
    image = images.get(plain)
    if image is None:
        known = ", ".join(sorted(images)) or "none"
        hint = f"known images: {known}; add it to sandbox_images"
        raise SpecError("image", name, "is not an image of this host", hint=hint)
    if pinned and not is_pinned_to(name, plain, image.digest):
        hint = f"it has {image.digest} now; name that one, or leave the digest out to follow it"
        raise SpecError("image", name, "is not what the image has become", hint=hint)
    return image


def is_pinned_to(name: str, image: str, digest: str) -> bool:
    plain, pinned, wanted = name.partition(PIN)
    return bool(pinned and wanted) and plain == image and digest.startswith(wanted)


def lookup(site: Site, name: str) -> Image:
    image = find(observe(site), name)
    check_made(image)
    return image


def check_made(image: Image) -> None:
    if not all(os.path.isdir(layer) for layer in image.layers):
        raise StateError(f"image {image.name!r} has lost its tree", hint="run sandbox_rootfs again")


def is_one_tree(site: Site, image: Image) -> bool:
    return len(image.layers) == 1 and bool(trees_of(site, image.layers))


def about(site: Site, digest: str) -> Dict[str, Any]:
    """The facts that the build of a tree stored; {} for a missing tree."""
    return store.read(f"{workspace.tree(site, digest)}/about.json") or {} if digest else {}


def shown(image: Image, mask: Mask) -> Dict[str, Any]:
    """The record of an image as results show it, without the values of its setup's variables."""
    steps = image.parameters.get("setup")
    if not steps:
        return image.to_json()
    masked = [mask.options(image.name, step, SECRET) for step in steps]
    return {**image.to_json(), "parameters": {**image.parameters, "setup": masked}}


def facts(site: Site, image: Image, mask: Mask | None = None) -> Dict[str, Any]:
    """Facts of an image: its record, and the warnings of its build."""
    warnings = list(about(site, image.base).get("warnings", []))
    if image.digest != image.base:
        warnings += about(site, image.digest).get("warnings", [])
    return {**shown(image, mask or Mask(site)), "root": image.root, "warnings": warnings}


def uses(site: Site) -> List[Use]:
    """The images that all sandboxes use, by their records, and the trees that snapshots need.

    A sandbox may also go back to the image of the record that an unfinished restart replaced.
    """
    needs = []
    for name in files.names(site.sandboxes):
        sandbox = site.sandbox(name)
        needs.append(_use(name, store.read(sandbox.record)))
        previous = _readable(sandbox.previous)
        needs += [_use(name, previous)._replace(image="")] if previous else []
    for owner in files.directories(site.snapshots):
        needs += snapshot_uses(site, owner)
    return needs + _job_uses(site)


def _job_uses(site: Site) -> List[Use]:
    """The trees below jobs that run; their images may go."""
    uses = []
    for name in files.names(site.run):
        job = site.sandbox(name)
        if isinstance(job, JobPaths) and flock.is_held(job.lock):
            launch = store.read(job.launch) or {}
            ids, layers = launch.get("ids", {}), launch.get("lower", ())
            uses.append(Use(name, "", launch.get("image", ""), ids.get("uid", -1), tuple(layers)))
    return uses


def snapshot_uses(site: Site, owner: str) -> List[Use]:
    """The trees that the snapshots of a sandbox need."""
    needs = []
    for identifier in files.directories(f"{site.snapshots}/{owner}"):
        record = _readable(site.snapshot(owner, identifier).file, "record")
        # Without a name: the tree stays for a restore, the image may go.
        needs.append(_use(f"{owner}/{identifier}", record)._replace(image=""))
    return needs


def _use(user: str, record: Mapping[str, Any] | None) -> Use:
    image, ids = (record or {}).get("image") or {}, (record or {}).get("ids") or {}
    layers = image.get("layers") or [image.get("root", "")]
    name, digest = image.get("name", ""), image.get("digest", "")
    return Use(user, name, digest, ids.get("uid", -1), tuple(layers))


def _readable(file: str, key: str = "") -> Dict[str, Any]:
    """The record in a file, or below its key; a broken one needs no tree, as nothing can use it."""
    try:
        data = store.read(file) or {}
        record = (data.get(key) if key else data) or {}
        layers = record["image"]["layers"] if record else []
    except (StateError, KeyError, TypeError, AttributeError):
        return {}
    whole = all(isinstance(path, str) for path in layers) and isinstance(record.get("ids"), dict)
    return record if whole else {}


def trees_of(site: Site, layers: Iterable[str]) -> List[str]:
    """Names of the stored trees among these layers."""
    prefix = f"{workspace.trees(site)}/"
    return [layer[len(prefix) :].split("/")[0] for layer in layers if layer.startswith(prefix)]


def check_unused(names: Iterable[str], used: Iterable[Use]) -> None:
    gone = set(names)
    users: Dict[str, List[str]] = {}
    for use in used:
        if use.image in gone:
            users.setdefault(use.image, []).append(use.sandbox)
    for name, sandboxes in users.items():
        problem = f"is used by the sandboxes {', '.join(sandboxes)}"
        raise SpecError("images", name, problem, hint="remove them first, or keep the image")
