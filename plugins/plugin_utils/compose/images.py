# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The image of a service: an entry of source oci, or what the caller has in its place."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from ...module_utils.sandlot.images.normalise import MAX_NAME
from .model import Json, Project, Service
from .nodes import Node
from .values import text

OCI = "oci"
_PULL = {
    "always": "always",
    "never": "never",
    "missing": "missing",
    "if_not_present": "missing",
}
_TIMED = re.compile(r"daily|weekly|refresh|every_([0-9]+[wdhms])+")


def image(service: Service) -> None:
    node, build = service.get("image"), service.get("build")
    own = service.project.request.images
    reference = text(node) if node else ""
    chosen = own.get(service.name, own.get(reference) if reference else None)
    if isinstance(chosen, str):
        service.sandbox.set("image", chosen, node or build or service.node)
        return
    if build and not chosen:
        _unbuilt(service, node, build)
    if not node and not chosen:
        hint = "give it `image: NAME:TAG`"
        raise service.node.failure(f"service {service.name} names no image", hint)
    fields = _fields(service, reference) if (chosen or {}).get("source", OCI) == OCI else {}
    fields.update(chosen or {})
    origin = node or build or service.node
    name = _name(fields, service.name if service.name in own else reference)
    service.project.images.setdefault(name, {**fields, "name": name})
    _pull(service, service.project.images[name])
    service.project.origins.setdefault(("images", name), origin)
    service.sandbox.set("image", name, origin)


def _unbuilt(service: Service, node: Node | None, build: Node) -> None:
    if node:
        service.warn(build, f"is left out: sandlot builds nothing, and takes {text(node)} as it is")
        return
    hint = (
        f"name an image in its place by the option images, as {{{service.name}: NAME}}, "
        "with an entry of your own in sandbox_images, such as one with setup steps"
    )
    raise build.failure(f"service {service.name} is built, which sandlot does not do", hint)


def _fields(service: Service, reference: str) -> Json:
    fields: Json = {"source": OCI, "reference": reference} if reference else {}
    platform = service.get("platform")
    if platform and fields:
        fields["platform"] = text(platform)
    return fields


def _name(fields: Json, reference: str) -> str:
    """A name that is an image's, and the same for the same fields."""
    base = re.sub(r"@sha256:([0-9a-f]{12})[0-9a-f]*", r"-\1", reference)
    if "platform" in fields:
        base = f"{base}+{fields['platform'].replace('/', '-')}"
    if len(base) > MAX_NAME:
        digest = hashlib.sha256(base.encode()).hexdigest()[:12]
        base = f"{base[: MAX_NAME - 13]}-{digest}"
    return str(fields.get("name", base))


def _pull(service: Service, entry: Json) -> None:
    """The policy of an image; of two services, the one that asks more often counts."""
    node = service.get("pull_policy")
    if not node or entry.get("source") != OCI:
        return
    word = text(node)
    if word == "build":
        service.warn(node, "is left out: sandlot builds nothing")
    elif _TIMED.fullmatch(word):
        service.warn(node, "is left out: pull is missing, always or never")
    elif word not in _PULL:
        raise node.error("is no policy of pulls", f"use {', '.join(_PULL)}")
    elif entry.get("pull") != "always":
        entry["pull"] = _PULL[word]


def rows(project: Project) -> list[dict[str, Any]]:
    return [{"name": entry["name"], **entry} for entry in project.images.values()]
