# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Resolves a reference to a digest, and builds a tree from it.

The digest is that of the manifest for one platform, or of the config in an archive of docker save.
Each digest is verified from there on: the manifest names the config, the config the layers.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Dict, List, Tuple

from ...errors import HostError, SpecError
from ...image_change import FRESH
from ...profiles import DAEMON
from ...spec.names import absolute_path
from ...spec.option import Option
from ...spec.text import choice, flag, line, missing, refusal, text
from ..model import Built, Image, ImageSpec, Job, Source
from ..tarball import BOUNDS
from ..tarstream import ArchiveError
from ..unpack import Bounds
from . import config, layers, local, manifest, platforms, reference, skopeo
from .manifest import MAX_MANIFEST, ImageError, Manifest
from .platforms import Platform
from .reference import DOCKER_ARCHIVE, Reference

Json = Dict[str, Any]

PULL = ("missing", "always", "never")
# These options say how to get an image; they do not change its content.
ACCESS = ("pull", "tls_verify", "ca_path", "username", "password", "auth_file")
_HEADERS = 16 << 20
_AGAIN = "build or push the image again"


def _reference(spec: ImageSpec) -> Reference:
    return reference.parse("reference", spec.get("reference"))


def _shown(spec: ImageSpec) -> str:
    return f"image {spec.name!r}: {_reference(spec)}"


# -- digests


def digest(spec: ImageSpec, known: Image | None = None) -> str | None:
    """The digest; a registry is not asked for a known image, unless ``pull`` says so."""
    named = _reference(spec)
    origin = ("reference", "platform")
    same = known and all(known.parameters.get(option) == spec.get(option) for option in origin)
    if not named.is_remote:
        local_image = local.find(spec, named, platforms.wanted(spec.get("platform")))
        if known and not same and local_image is None:
            raise _absent(named)
        return local_image[0] if local_image else None
    if known and same and (named.digest or spec.get("pull") != "always"):
        return known.base
    if spec.get("pull") == "never":
        hint = "set pull: missing to let the host fetch it"
        raise SpecError("pull", "never", f"but {_shown(spec)} is not on this host", hint=hint)
    if known is None and skopeo.find() is None:
        return None  # the build names what is missing
    data, what = skopeo.manifest(spec, named), _shown(spec)
    sent = manifest.digest(data)
    if named.digest and sent != named.digest:
        raise ImageError(f"{what}: the registry sent {sent} instead")
    parsed = manifest.document(data, what)
    if manifest.is_list(parsed):
        return manifest.choose(parsed, platforms.wanted(spec.get("platform")), what)[0].hex
    manifest.parse(parsed, what)
    return sent.partition(":")[2]


# -- trees


def build(job: Job) -> Built:
    spec, what = job.spec, _shown(job.spec)
    job.report("fetch", 0, 0)
    source, platform, size = _planned(job)
    blobs = f"{job.scratch}/blobs"
    # Archives are copied twice: skopeo unpacks them first.
    limit = size or 2 * spec.get("max_size")

    def report_copied(done: int) -> None:
        job.report("fetch", min(done, size) if size else done, size)

    skopeo.copy(spec, source, platform, blobs, report_copied, limit)
    image = _manifest(job, blobs, source)
    with open(f"{blobs}/{image.config.hex}", "rb") as handle:
        data = handle.read(image.config.size + 1)
    if manifest.digest(data) != image.config.digest:
        raise ImageError(f"{what}: its config is not what its manifest says", hint=_AGAIN)
    settings = manifest.document(data, f"the config of {what}")
    _check_platform(settings, what, platforms.wanted(spec.get("platform")))
    defaults, warnings = config.defaults(settings, what)
    return Built([*_unpack(job, blobs, image, settings), *warnings], defaults)


def _absent(source: Reference) -> SpecError:
    hint = "it lies on the managed host; copy the image there first"
    return SpecError("reference", str(source), "is not there", hint=hint)


def _planned(job: Job) -> Tuple[Reference, Platform, int]:
    """The image to copy, its platform, and its size if the manifest tells it."""
    source, want = _reference(job.spec), platforms.wanted(job.spec.get("platform"))
    if not source.is_remote:
        local_image = local.find(job.spec, source, want)
        if local_image is None:
            raise _absent(source)
        return source, local_image[1], 0
    if not job.digest:
        skopeo.program()
        raise HostError(f"{_shown(job.spec)}: skopeo was not there before", hint="run again")
    exact = source.at(f"sha256:{job.digest}")
    data = manifest.document(skopeo.manifest(job.spec, exact), _shown(job.spec))
    size = manifest.parse(data, _shown(job.spec)).size
    # Headers, and files that can't be compressed, make layers larger than their files.
    if size > job.spec.get("max_size") + _HEADERS:
        problem = f"{_shown(job.spec)} has {size} bytes of layers, more than max_size"
        raise ImageError(problem, hint="raise max_size if that much is right")
    return exact, want, size


def _manifest(job: Job, blobs: str, source: Reference) -> Manifest:
    what = _shown(job.spec)
    with open(f"{blobs}/manifest.json", "rb") as handle:
        data = handle.read(MAX_MANIFEST)
    image = manifest.parse(manifest.document(data, what), what)
    named = image.config.digest if source.transport == DOCKER_ARCHIVE else manifest.digest(data)
    if named != f"sha256:{job.digest}":
        hint = "run again; it was changed meanwhile, or whoever sent it sent something else"
        raise ImageError(f"{what} is {named}, not sha256:{job.digest}", hint=hint)
    return image


def _check_platform(settings: Json, what: str, want: Platform) -> None:
    """Refuse another platform; a single manifest names it in its config, if at all."""
    if not settings.get("architecture") and not settings.get("os"):
        return
    actual = platforms.described(settings)
    if actual not in platforms.acceptable(want):
        shown = actual or f"{settings.get('os')}/{settings.get('architecture')}"[:80]
        hint = f"set platform: {actual} if that is right" if actual else "use an image for linux"
        raise ImageError(f"{what} is for {shown}, not for {want}", hint=hint)


def _unpack(job: Job, blobs: str, image: Manifest, settings: Json) -> List[str]:
    diff_ids = manifest.diff_ids(settings, len(image.layers), _shown(job.spec))
    bounds = Bounds(job.spec.get("max_size"), job.spec.get("max_files"))
    total = sum(layer.size for layer in image.layers)
    report = functools.partial(job.report, "unpack")
    with contextlib.ExitStack() as stack:
        fds = [
            stack.enter_context(open(f"{blobs}/{layer.hex}", "rb")).fileno()
            for layer in image.layers
        ]
        try:
            return layers.apply(fds, diff_ids, job.root, bounds, lambda done: report(done, total))
        except ArchiveError as error:
            hint = error.hint if error.hint.startswith("raise") else _AGAIN
            raise ArchiveError(f"{_shown(job.spec)}: {error.message}", hint=hint) from error


# -- options


def _check(option: str, spec: ImageSpec) -> None:
    if "reference" not in spec.options:
        hint = "give it, such as registry.example.com/name:tag"
        raise SpecError(option, spec.name, "has no reference", hint=hint)
    given = [name for name in ACCESS if name in spec.options]
    if given and not _reference(spec).is_remote:
        hint = "leave it out for what lies on the host"
        problem = f"is for registries, and {_reference(spec)} is none"
        raise SpecError(f"{option}.{given[0]}", spec.name, problem, hint=hint)
    if ("username" in given) != ("password" in given):
        hint = "give both, or auth_file"
        raise SpecError(option, spec.name, "has only one of username and password", hint=hint)
    if "password" in given and "auth_file" in given:
        hint = "keep one of them"
        raise SpecError(option, spec.name, "has both a password and an auth_file", hint=hint)


def _username(option: str, value: Any) -> str:
    name = line(option, value)
    if not name or ":" in name:
        hint = "give the name alone; the password has an option of its own"
        raise refusal(option, value, "is not a user of a registry", hint=hint)
    return name


def _password(option: str, value: Any) -> str:
    given = text(option, value, secret=True)
    if not given:
        raise missing(option)
    return given


SOURCE = Source(
    description="an image from a registry, an OCI layout or a docker save archive",
    digest=digest,
    build=build,
    check=_check,
    secret=frozenset(ACCESS),
    settled=True,
    packages=skopeo.missing,
    profile=DAEMON,
    on_image_change=FRESH,
    options=(
        Option(
            "reference",
            "str",
            reference.normalised,
            [
                "An image, as V(REGISTRY/NAME:TAG), optionally with V(docker://) before it and "
                "V(@sha256:DIGEST) at its end.",
                "Or what lies on the managed host, V(oci:/DIRECTORY:TAG), "
                "V(oci-archive:/FILE:TAG), V(docker-archive:/FILE:NAME:TAG); what follows the "
                "path can be left out where there is one image. Required.",
            ],
        ),
        Option(
            "platform",
            "str",
            platforms.normalised,
            [
                "Platform to choose where an image has several, such as V(linux/arm64). "
                "Without it, that of the host."
            ],
        ),
        Option(
            "pull",
            "str",
            functools.partial(choice, choices=PULL),
            [
                "When to ask the registry: V(missing) for an image that is not on the host yet, "
                "V(always) to follow a tag, V(never) not at all. Without it, V(missing).",
            ],
            choices=PULL,
        ),
        Option(
            "tls_verify",
            "bool",
            flag,
            [
                "Whether the registry must have a certificate that can be verified. V(false) "
                "allows plain HTTP, too. Without it, what C(/etc/containers/registries.conf) "
                "says, else V(true).",
            ],
        ),
        Option(
            "ca_path",
            "path",
            absolute_path,
            ["PEM file on the managed host with the CA of the registry's certificate."],
        ),
        Option("username", "str", _username, ["User of the registry, with O(password)."]),
        Option(
            "password",
            "str",
            _password,
            ["The user's password. It is neither stored nor written to any file of the host."],
            no_log=True,
        ),
        Option(
            "auth_file",
            "path",
            absolute_path,
            [
                "File on the managed host with credentials, as C(podman login) and "
                "C(docker login) make it. Without it and a password, those that root has.",
            ],
        ),
        *BOUNDS,
    ),
)
