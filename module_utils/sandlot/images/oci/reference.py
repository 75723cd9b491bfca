# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""References to images in skopeo's syntax; a reference without a transport is docker's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from ...errors import SpecError
from ...spec.names import absolute_path
from ...spec.text import line, refusal

DOCKER = "docker"
OCI = "oci"
OCI_ARCHIVE = "oci-archive"
DOCKER_ARCHIVE = "docker-archive"
LOCAL = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE)
_FOREIGN = ("containers-storage", "dir", "docker-daemon", "ostree", "sif", "tarball")
_DEFAULT_REGISTRY = "docker.io"

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PORT = r":[0-9]{1,5}"
# The one registry name that needs neither a dot nor a port.
_HOST = (
    rf"{_LABEL}(?:\.{_LABEL})+(?:{_PORT})?|{_LABEL}{_PORT}|\[[0-9a-fA-F:]+\](?:{_PORT})?|localhost"
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:(?:{_HOST})/)?{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_OCI_TAG = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@+-]{0,255}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INDEX = re.compile(r"@[0-9]{1,6}")
_MAX_NAME = 255
_HINT = (
    "write REGISTRY/NAME:TAG, NAME@sha256:DIGEST, oci:/DIRECTORY:TAG, oci-archive:/FILE:TAG or "
    "docker-archive:/FILE:NAME:TAG"
)


@dataclass(frozen=True)
class Reference:
    """A reference; ``name`` is a repository, or a path on this host.

    ``tag`` chooses an image there; in a docker save archive, by a whole name or "@" and a number.
    """

    transport: str
    name: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        prefix = "" if self.transport == DOCKER else f"{self.transport}:"
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{prefix}{self.name}{tag}{digest}"

    @property
    def is_remote(self) -> bool:
        return self.transport == DOCKER

    @property
    def registry(self) -> str:
        """The registry's name as credential files spell it."""
        first, slash, dummy = self.name.partition("/")
        is_host = slash and ("." in first or ":" in first or first == "localhost")
        return first if is_host else _DEFAULT_REGISTRY

    def at(self, digest: str) -> Reference:
        """The reference to the manifest ``digest``; a local reference stays as it is."""
        return replace(self, tag="", digest=digest) if self.is_remote else self

    def argument(self) -> str:
        """The argument for skopeo, which refuses a tag next to a digest."""
        shown = replace(self, tag="") if self.digest else self
        return f"docker://{shown}" if self.is_remote else str(self)


def parse(option: str, value: Any) -> Reference:
    text = line(option, value)
    transport, colon, rest = text.partition(":")
    if colon and transport in _FOREIGN:
        hint = f"{transport}: is not supported; {_HINT}"
        raise refusal(option, value, "is not a reference to an image", hint=hint)
    if colon and transport in LOCAL:
        return _local(option, value, transport, rest)
    if colon and transport == DOCKER and rest.startswith("//"):
        return _remote(option, value, rest[2:])
    return _remote(option, value, text)


def normalised(option: str, value: Any) -> str:
    return str(parse(option, value))


def _remote(option: str, value: Any, text: str) -> Reference:
    rest, at, digest = text.partition("@")
    # A colon after the last slash begins a tag; one before it, a port.
    head, slash, last = rest.rpartition("/")
    base, tagged, tag = last.partition(":")
    name = f"{head}{slash}{base}"
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise refusal(option, value, "is not a reference to an image", hint=_HINT)
    if tagged and not _TAG.fullmatch(tag):
        hint = "a tag has up to 128 ASCII letters, digits and '_.-'"
        raise refusal(option, value, "has an invalid tag", hint=hint)
    if digest and not _DIGEST.fullmatch(digest):
        raise refusal(option, value, "has an invalid digest", hint="write @sha256:64 HEX")
    if at and not digest:
        raise refusal(option, value, "has no digest after the @", hint=_HINT)
    return Reference(DOCKER, name, tag or ("" if digest else "latest"), digest)


def _local(option: str, value: Any, transport: str, rest: str) -> Reference:
    path, colon, tag = rest.partition(":")
    absolute = absolute_path(option, path)
    if colon and not tag:
        raise refusal(option, value, "has nothing after the last colon", hint=_HINT)
    if transport == DOCKER_ARCHIVE:
        if not tag or _INDEX.fullmatch(tag):
            return Reference(transport, absolute, tag)
        inner = _remote(option, value, tag)
        if inner.digest:
            hint = "name an image in the archive by NAME:TAG or @NUMBER"
            raise refusal(option, value, "names a digest in an archive", hint=hint)
        return Reference(transport, absolute, str(inner))
    if tag and not _OCI_TAG.fullmatch(tag):
        raise refusal(option, value, "has an invalid tag", hint=_HINT)
    return Reference(transport, absolute, tag)


def familiar(text: str) -> str:
    """The full form of a name in a docker save archive: docker drops its registry and tag."""
    try:
        parsed = _remote("", text, text)
    except SpecError:
        return text
    if parsed.registry != _DEFAULT_REGISTRY:
        return str(parsed)
    name = parsed.name[len("docker.io/") :] if parsed.name.startswith("docker.io/") else parsed.name
    library = "" if "/" in name else "library/"
    return str(replace(parsed, name=f"{_DEFAULT_REGISTRY}/{library}{name}"))
