# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Parses manifests and lists of manifests; registries and archives are not trusted."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ...errors import SandlotError
from . import platforms
from .platforms import Platform

# The limits of registries.
MAX_MANIFEST = 4 << 20
MAX_CONFIG = 4 << 20
# Docker's own limit; each layer is an open file of the process that unpacks it.
MAX_LAYERS = 128
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_LISTS = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
_CONFIGS = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
)
_LAYERS = re.compile(
    r"application/vnd\.(?:docker\.image\.rootfs\.diff|oci\.image\.layer\.v1)\.tar"
    r"(?:[.+](?:gzip|zstd))?"
)
_KEPT_ELSEWHERE = re.compile(r"application/vnd\..*(?:\.foreign\.|\.nondistributable\.).*")
_MAKE_AGAIN = "build the image again, with a tool that keeps to the OCI image specification"

Json = Dict[str, Any]


class ImageError(SandlotError):
    """A damaged image, or one that is no root file system."""


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]


@dataclass(frozen=True)
class Manifest:
    config: Blob
    layers: Tuple[Blob, ...]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return self.config.size + sum(blob.size for blob in set(self.layers))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def document(data: bytes, what: str) -> Json:
    """Parse a JSON object."""
    try:
        parsed = json.loads(data)
    # Deep nesting exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {error}", hint=_MAKE_AGAIN) from error
    if not isinstance(parsed, dict):
        raise ImageError(f"{what} is not a JSON object", hint=_MAKE_AGAIN)
    return parsed


def is_list(data: Json) -> bool:
    if "mediaType" in data:
        return data["mediaType"] in _LISTS
    return "manifests" in data and "layers" not in data


def choose(data: Json, want: Platform, what: str) -> Tuple[Blob, Platform]:
    """The manifest for this platform in a list."""
    entries = [entry for entry in _sequence(data, "manifests", what) if isinstance(entry, Mapping)]
    entry = platforms.choose(entries, want, what)
    if entry.get("mediaType", _MANIFESTS[0]) not in _MANIFESTS:
        problem = f"{what} lists something for {want} that is no image manifest"
        raise ImageError(problem, hint="name the image in it by its digest")
    return blob(entry, what), platforms.described(entry.get("platform")) or want


def parse(data: Json, what: str) -> Manifest:
    kind = data.get("mediaType", _MANIFESTS[0])
    if data.get("schemaVersion") == 1 or kind not in _MANIFESTS:
        problem = f"{what} is no image manifest that is supported, but {str(kind)[:100]!r}"
        raise ImageError(problem, hint="copy it with skopeo copy --format oci, and use the copy")
    config = data.get("config")
    config = config if isinstance(config, Mapping) else {}
    if config.get("mediaType", _CONFIGS[0]) not in _CONFIGS:
        shown = repr(str(config["mediaType"])[:100])
        problem = f"{what} is not an image but an artifact of the type {shown}"
        raise ImageError(problem, hint="name a container image")
    settings = blob(config, f"the config of {what}", MAX_CONFIG)
    layers = _sequence(data, "layers", what)
    if not layers:
        raise ImageError(f"{what} has no layers", hint=_MAKE_AGAIN)
    if len(layers) > MAX_LAYERS:
        problem = f"{what} has {len(layers)} layers, more than {MAX_LAYERS}"
        raise ImageError(problem, hint="build it with fewer steps, or squash it")
    blobs = []
    for number, each in enumerate(layers, start=1):
        layer = f"layer {number} of {what}"
        kind = each.get("mediaType", "") if isinstance(each, Mapping) else ""
        if isinstance(kind, str) and _KEPT_ELSEWHERE.fullmatch(kind):
            problem = f"{layer} is kept elsewhere (it is foreign, or not to be distributed)"
            raise ImageError(problem, hint="use an image whose layers are all in the registry")
        if not isinstance(kind, str) or not _LAYERS.fullmatch(kind):
            problem = f"{layer} is of the type {str(kind)[:100]!r}, which is no layer of files"
            raise ImageError(problem, hint="name a container image that is not encrypted")
        blobs.append(blob(each, layer))
    return Manifest(settings, tuple(blobs))


def blob(data: Any, what: str, limit: int = 1 << 60) -> Blob:
    """Parse a descriptor."""
    name, size = (data.get("digest"), data.get("size")) if isinstance(data, Mapping) else (0, 0)
    if not isinstance(name, str) or not _DIGEST.fullmatch(name):
        raise ImageError(f"{what} has no sha256 digest but {str(name)[:80]!r}", hint=_MAKE_AGAIN)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ImageError(f"{what} has the size {str(size)[:40]!r}", hint=_MAKE_AGAIN)
    if size > limit:
        raise ImageError(f"{what} has {size} bytes, more than {limit}", hint=_MAKE_AGAIN)
    return Blob(name, size)


def diff_ids(config: Json, count: int, what: str) -> List[str]:
    """Digests of the layers' uncompressed content."""
    rootfs = config.get("rootfs")
    digests = rootfs.get("diff_ids") if isinstance(rootfs, Mapping) else None
    good = isinstance(digests, list) and all(
        isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests
    )
    if not good or not isinstance(digests, list) or len(digests) != count:
        problem = f"the config of {what} does not tell the digests of its {count} layers (diff_ids)"
        raise ImageError(problem, hint=_MAKE_AGAIN)
    return digests


def _sequence(data: Json, key: str, what: str) -> Sequence[Any]:
    items = data.get(key)
    if not isinstance(items, list):
        raise ImageError(f"{what} has no list of {key}", hint=_MAKE_AGAIN)
    return items
