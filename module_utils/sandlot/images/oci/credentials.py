# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Gives skopeo the credentials and the CA of one registry from root's files, in memory.

A process of the same user could read skopeo's descriptors, so skopeo has a user of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from ...errors import HostError, SpecError
from ..model import ImageSpec
from .reference import Reference

# Debian reserves the ids 65000-65533 and assigns none of them.
USER = 65533
_MAX_SIZE = 1 << 20
# Root's credentials as podman, skopeo and docker store them; the first match counts.
_PLACES = (
    "/run/user/0/containers/auth.json",
    "/run/containers/0/auth.json",
    "/root/.config/containers/auth.json",
    "/root/.docker/config.json",
)
_OF_USERS = ("HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG")
_DOCKER_HUB = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))


class Access(NamedTuple):
    options: List[str]
    fds: Tuple[int, ...]
    environment: Dict[str, str]


@contextlib.contextmanager
def access(spec: ImageSpec, reference: Reference) -> Iterator[Access]:
    """Options, descriptors and environment for skopeo to find the credentials and the CA."""
    options: List[str] = []
    fds: List[int] = []
    # Ours, but for what leads to files of root.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_USERS and not name.startswith("XDG_")
    }
    environment.update(HOME="/", LC_ALL="C")
    with contextlib.ExitStack() as stack:
        content = _credentials(spec, reference)
        if content:
            fds.append(stack.enter_context(_in_memory("auth", content)))
            options = ["--authfile", f"/proc/self/fd/{fds[-1]}"]
        if spec.get("ca_path"):
            content = _content("ca_path", spec.get("ca_path"))
            fds.append(stack.enter_context(_in_memory("ca", content)))
            # Go reads it in place of the system's file, and the system's directory as well.
            environment["SSL_CERT_FILE"] = f"/proc/self/fd/{fds[-1]}"
        yield Access(options, tuple(fds), environment)


@contextlib.contextmanager
def _in_memory(name: str, content: bytes) -> Iterator[int]:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, 0o400)
        os.fchown(fd, USER, USER)
        with open(fd, "wb", closefd=False) as handle:
            handle.write(content)
        yield fd
    finally:
        os.close(fd)


def basic(spec: ImageSpec) -> str:
    if not spec.get("password"):
        return ""
    pair = f"{spec.get('username')}:{spec.get('password')}"
    return base64.b64encode(pair.encode()).decode()


def _credentials(spec: ImageSpec, reference: Reference) -> bytes:
    if not reference.is_remote:
        return b""
    if spec.get("password"):
        return _file({reference.registry: {"auth": basic(spec)}})
    if spec.get("auth_file"):
        path = spec.get("auth_file")
        return _file(_of(reference.registry, path, _content("auth_file", path)))
    auths: Dict[str, Any] = {}
    for path in filter(os.path.isfile, reversed(_PLACES)):
        auths.update(_of(reference.registry, path, _content("auth_file", path)))
    return _file(auths)


def _file(auths: Dict[str, Any]) -> bytes:
    return json.dumps({"auths": auths}).encode()


def _of(registry: str, path: str, content: bytes) -> Dict[str, Any]:
    """The entries for the registry; credential helpers of docker run as root and are not asked."""
    try:
        auths = json.loads(content).get("auths") or {}
        return {name: value for name, value in auths.items() if _is_for(registry, name)}
    except (ValueError, AttributeError) as error:
        hint = "podman login writes such files"
        raise HostError(f"{path} is no file of credentials: {error}", hint=hint) from error


def _is_for(registry: str, name: str) -> bool:
    """Whether a key names the registry; old docker wrote URLs, podman also writes namespaces."""
    host = name.split("://")[-1].split("/")[0]
    return host == registry or {host, registry} <= _DOCKER_HUB


def _content(option: str, path: str) -> bytes:
    if not os.path.isfile(path):
        hint = "it names a file on the managed host"
        raise SpecError(option, path, "is not there", hint=hint)
    with open(path, "rb") as handle:
        content = handle.read(_MAX_SIZE + 1)
    if len(content) > _MAX_SIZE:
        raise SpecError(option, path, f"has more than {_MAX_SIZE} bytes")
    return content
