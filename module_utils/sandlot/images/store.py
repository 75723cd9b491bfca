# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The images of a host: records, and the trees they name.

images/NAME.json             record of one image
images/trees/DIGEST/root     its tree; DIGEST is closed, for the tree holds setuid programs
images/trees/DIGEST/shifted-START    a copy for one sandbox, where mounts can't map ids
images/.tmp-...              a tree that is being made or removed
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

from .. import store
from ..errors import ForeignError, SandlotError, SpecError, StateError
from ..paths import Paths
from ..plan import Change, Operation
from . import busybox, tarball
from .model import Image, ImageSpec

TEMPORARY = ".tmp-"


class Source(NamedTuple):
    """``digest`` names the tree a spec leads to; ``build`` fills an empty directory with it."""

    digest: Callable[[ImageSpec], str | None]
    build: Callable[[ImageSpec, str], list[str]]


_SOURCES: Mapping[str, Source] = {
    "busybox": Source(busybox.digest, busybox.build),
    "tarball": Source(tarball.digest, tarball.build),
}


class Use(NamedTuple):
    """What one sandbox's record says it needs."""

    sandbox: str
    image: str
    digest: str
    start: int


def trees(paths: Paths) -> str:
    return f"{paths.images}/trees"


def tree(paths: Paths, digest: str) -> str:
    return f"{trees(paths)}/{digest}"


def _record(paths: Paths, name: str) -> str:
    # "%" is not a character of image names.
    return f"{paths.images}/{name.replace('/', '%2F')}.json"


def observe(paths: Paths) -> dict[str, Image]:
    """Every image of this host by name."""
    images: dict[str, Image] = {}
    for entry in _names(paths.images):
        if entry.endswith(".json") and not entry.startswith("."):
            image = _read(f"{paths.images}/{entry}")
            images[image.name] = image
    return images


def _read(path: str) -> Image:
    data = store.read(path) or {}
    try:
        return Image(
            data["name"], data["digest"], data["root"], data["source"], dict(data["parameters"])
        )
    except (KeyError, TypeError, ValueError) as error:
        hint = f"remove {path}; the next run makes the image again"
        raise StateError(f"{path} is not the record of an image: {error}", hint=hint) from error


def lookup(paths: Paths, name: str) -> Image:
    images = observe(paths)
    if name not in images:
        known = ", ".join(sorted(images)) or "none"
        hint = f"known images: {known}; add it to sandbox_images"
        raise SpecError("image", name, "is not an image of this host", hint=hint)
    if not os.path.isdir(images[name].root):
        raise StateError(f"image {name!r} has lost its tree", hint="run sandbox_rootfs again")
    return images[name]


def facts(paths: Paths, image: Image) -> dict[str, Any]:
    """An image for people: its record, and what was left out when its tree was made."""
    about = store.read(f"{tree(paths, image.digest)}/about.json") or {}
    return {**image.to_json(), "warnings": list(about.get("warnings", []))}


def uses(paths: Paths) -> list[Use]:
    """What the records of the sandboxes refer to."""
    found = []
    for sandbox in _names(paths.sandboxes):
        record = store.read(paths.sandbox(sandbox).record) or {}
        image, ids = record.get("image") or {}, record.get("ids") or {}
        found.append(
            Use(sandbox, image.get("name", ""), image.get("digest", ""), ids.get("uid", -1))
        )
    return found


# -- planning -------------------------------------------------------------------------------------


def operations(paths: Paths, specs: Sequence[ImageSpec], *, purge: bool = False) -> list[Operation]:
    """What makes the host have these images; ``purge`` removes those that are not listed."""
    known = observe(paths)
    wanted = desired(paths, specs, purge=purge)
    gone = [name for name in known if name not in wanted]
    _check_unused(paths, gone)
    listed = [spec for spec in specs if spec.state == "present"]
    planned = [_present(paths, spec, known.get(spec.name), wanted[spec.name]) for spec in listed]
    found = _leftovers(paths) + [operation for operation in planned if operation]
    found += [_removal(paths, known[name]) for name in gone]
    if not found and not purge:
        return []
    return found + _prune(paths, {image.digest for image in wanted.values()})


def desired(paths: Paths, specs: Sequence[ImageSpec], *, purge: bool = False) -> dict[str, Image]:
    """The images the host is to have; a digest is empty while its source is not there."""
    known = observe(paths)
    wanted = {} if purge else dict(known)
    for spec in specs:
        if spec.state == "present":
            digest = _digest(spec, known.get(spec.name)) or ""
            wanted[spec.name] = _image(paths, spec, digest)
        else:
            wanted.pop(spec.name, None)
    return wanted


def prune_operations(paths: Paths) -> list[Operation]:
    """Removes trees and copies that neither an image nor a sandbox refers to."""
    return _leftovers(paths) + _prune(paths, {each.digest for each in observe(paths).values()})


def _digest(spec: ImageSpec, image: Image | None) -> str | None:
    found = _SOURCES[spec.source or ""].digest(spec)
    same = image is not None and image.source == spec.source
    # The source is gone from this host: what was made of it stays.
    return image.digest if found is None and image is not None and same else found


def _present(paths: Paths, spec: ImageSpec, image: Image | None, wanted: Image) -> Operation | None:
    made = bool(wanted.digest) and os.path.isdir(wanted.root)
    if made and image == wanted:
        return None
    verb, change = _verb(image, wanted, made=made)
    short = f" {wanted.digest[:12]}" if wanted.digest else ""
    action = functools.partial(_make, paths, spec, wanted.digest)
    return Operation(f"image {spec.name}", f"{verb}{short} from {spec.source}", action, change)


def _verb(image: Image | None, wanted: Image, *, made: bool) -> tuple[str, Change]:
    if image is None:
        return "make", Change.LIVE
    if image.digest != wanted.digest:
        return "replace", Change.REBUILD
    return ("record" if made else "make again"), Change.LIVE


def _image(paths: Paths, spec: ImageSpec, digest: str) -> Image:
    root = f"{tree(paths, digest)}/root" if digest else ""
    return Image(spec.name, digest, root, spec.source or "", spec.parameters())


def _check_unused(paths: Paths, names: Iterable[str]) -> None:
    wanted = set(names)
    users: dict[str, list[str]] = {}
    for use in uses(paths) if wanted else []:
        if use.image in wanted:
            users.setdefault(use.image, []).append(use.sandbox)
    for name, sandboxes in users.items():
        problem = f"is used by the sandboxes {', '.join(sandboxes)}"
        raise SpecError("images", name, problem, hint="remove them first, or keep the image")


def _removal(paths: Paths, image: Image) -> Operation:
    action = functools.partial(_forget, paths, image.name)
    return Operation(f"image {image.name}", f"remove {image.digest[:12]}", action)


def _leftovers(paths: Paths) -> list[Operation]:
    found = [name for name in _names(paths.images) if _is_leftover(name)]
    if not found:
        return []
    action = functools.partial(_sweep, paths)
    return [Operation("images", "clean up after an interrupted run", action)]


def _is_leftover(name: str) -> bool:
    return name.startswith(TEMPORARY) or name.endswith(".json.new")


def _prune(paths: Paths, kept: set[str]) -> list[Operation]:
    unused = _unused(paths, kept)
    if not unused:
        return []
    names = " ".join(f"{digest[:12]}{rest}" for digest, rest in unused)
    return [Operation("images", f"remove unused {names}", functools.partial(_discard_all, paths))]


def _unused(paths: Paths, kept: set[str]) -> list[tuple[str, str]]:
    """(digest, "") for a whole tree, (digest, "/shifted-START") for one copy in it."""
    used = uses(paths)
    kept = kept | {use.digest for use in used}
    copies = {(use.digest, f"shifted-{use.start}") for use in used}
    found = [(digest, "") for digest in _names(trees(paths)) if digest not in kept]
    for digest in _names(trees(paths)):
        if digest in kept:
            for name in _names(tree(paths, digest)):
                if name.startswith("shifted-") and (digest, name) not in copies:
                    found.append((digest, f"/{name}"))
    return found


# -- doing ----------------------------------------------------------------------------------------


def _make(paths: Paths, spec: ImageSpec, digest: str) -> None:
    try:
        _build(paths, spec, digest)
    except OSError as error:
        raise SandlotError(
            f"image {spec.name!r} can't be made: {error}",
            hint=f"see to space and rights in {paths.images}, then run again",
        ) from error


def _build(paths: Paths, spec: ImageSpec, digest: str) -> None:
    for directory in (paths.state, paths.images, trees(paths)):
        private_directory(directory)
    image = _image(paths, spec, digest)
    if not digest or not os.path.isdir(image.root):
        _build_tree(paths, spec, digest)
    store.write(_record(paths, spec.name), image.to_json())


def _build_tree(paths: Paths, spec: ImageSpec, digest: str) -> None:
    source = _SOURCES[spec.source or ""]
    with temporary(paths, digest or "unknown") as directory:
        os.mkdir(f"{directory}/root")
        os.chmod(f"{directory}/root", 0o755)
        left_out = source.build(spec, f"{directory}/root")
        if source.digest(spec) != digest:
            problem = f"image {spec.name!r}: its source changed while it was made"
            raise SandlotError(problem, hint="run again")
        store.write(f"{directory}/about.json", {"warnings": left_out})
        install(paths, directory, tree(paths, digest))


def private_directory(path: str) -> None:
    """A directory of ours that no other user can enter; one that somebody else made is refused."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        problem = f"{path} is not a directory of user {os.geteuid()}"
        raise ForeignError(problem, hint="move it away; sandlot makes its own")
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(path, 0o700)


@contextlib.contextmanager
def temporary(paths: Paths, name: str) -> Iterator[str]:
    """An empty directory for a build; whatever is left in it at the end is removed."""
    path = f"{paths.images}/{TEMPORARY}{name}"
    _remove_tree(path)
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        _remove_tree(path)


def install(paths: Paths, directory: str, destination: str) -> None:
    """Rename a finished tree into place, once it has reached the disk."""
    os.sync()
    if os.path.isdir(destination):
        _discard(paths, destination)
    os.rename(directory, destination)


def _discard(paths: Paths, path: str) -> None:
    """Take a tree away at once, then remove it: a half-removed one is never taken for a whole."""
    parts = os.path.relpath(path, trees(paths)).replace("/", "-")
    aside = f"{paths.images}/{TEMPORARY}removed-{parts}"
    _remove_tree(aside)
    os.rename(path, aside)
    _remove_tree(aside)


def _forget(paths: Paths, name: str) -> None:
    _check_unused(paths, [name])
    store.remove(_record(paths, name))


def _sweep(paths: Paths) -> None:
    for name in _names(paths.images):
        if name.startswith(TEMPORARY):
            _remove_tree(f"{paths.images}/{name}")
        elif _is_leftover(name):
            os.unlink(f"{paths.images}/{name}")


def _discard_all(paths: Paths) -> None:
    for digest, rest in _unused(paths, {image.digest for image in observe(paths).values()}):
        _discard(paths, f"{tree(paths, digest)}{rest}")


def _remove_tree(path: str) -> None:
    """Without following links; a mount below it would be a bug of ours and stops the removal."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
