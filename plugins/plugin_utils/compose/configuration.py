# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Configs and secrets of a service, which become its files and secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...module_utils.sandlot.spec.configuration import LONGEST
from ...module_utils.sandlot.spec.values import SECRETS
from .model import Json, Service
from .nodes import Node
from .storage import octal, on_change
from .values import boolean, known, sequence, text

_LONGEST = {"configs": LONGEST["content"], "secrets": LONGEST["value"]}
_FIELDS = ("source", "target", "uid", "gid", "mode")
_DECLARED = (
    *("name", "content", "environment", "file", "external", "labels"),
    *("driver", "driver_opts", "template_driver"),
)


def configs(service: Service) -> None:
    node = service.get("configs")
    for item in sequence(node) if node else []:
        source, fields = _grant(item)
        target = text(fields["target"]) if "target" in fields else f"/{source}"
        if not target.startswith("/"):
            target = f"/{target}"
        content = _content(service, "configs", source, item, service.project.request.configs)
        entry = {"target": target, **content, **_owner(fields)}
        service.sandbox.add("files", {"mode": "0444", **entry}, item)


def secrets(service: Service) -> None:
    node = service.get("secrets")
    for item in sequence(node) if node else []:
        source, fields = _grant(item)
        target = text(fields["target"]) if "target" in fields else source
        entry = _content(service, "secrets", source, item, service.project.request.secrets)
        if "content" in entry:
            entry["value"] = entry.pop("content")
        entry.update(_owner(fields))
        place = target if target.startswith("/") else f"{SECRETS}/{target}"
        name = place.removeprefix(f"{SECRETS}/")
        if "/" in name:
            # Two files of one secret differ in their targets.
            entry["target"] = place
            taken = [row["name"] for row in service.sandbox.options.get("secrets", ())]
            name = source if source not in taken else place.strip("/").replace("/", "-")
        service.sandbox.add("secrets", {"name": name, **entry}, item)


def _grant(item: Node) -> tuple[str, dict[str, Node]]:
    """The name in the section of the file, and the fields of the service."""
    if not isinstance(item.value, dict):
        return text(item), {}
    fields = known(item, _FIELDS, "a config or secret")
    if "source" not in fields:
        raise item.failure("names no source", "give it `source: NAME`")
    return text(fields["source"]), fields


def _owner(fields: Mapping[str, Node]) -> Json:
    owner = {"uid": "owner", "gid": "group"}
    given: Json = {option: text(fields[key]) for key, option in owner.items() if key in fields}
    if "mode" in fields:
        given["mode"] = octal(fields["mode"])
    return {**given, **on_change(fields)}


def _content(
    service: Service, section: str, name: str, item: Node, own: Mapping[str, Mapping[str, Any]]
) -> Json:
    """The fields that say where the content is."""
    node = service.project.declared(section, name, item)
    if name in own:
        return dict(own[name])
    kind = section[:-1]
    given = known(node, _DECLARED, section) if node.value is not None else {}
    outside = given.get("external")
    if outside and (isinstance(outside.value, dict) or boolean(outside)):
        hint = f"give it by the option {section}, as {{{name}: {{src: FILE}}}}"
        raise node.failure(f"{kind} {name!r} is external, so nobody has its value", hint)
    for key in ("driver", "driver_opts", "template_driver"):
        if key in given:
            raise given[key].failure("there are no drivers here", "leave it out")
    origins = [key for key in ("file", "content", "environment") if key in given]
    if len(origins) != 1 or (section == "secrets" and "content" in given):
        forms = "file or environment" if section == "secrets" else "file, content or environment"
        raise node.failure(f"{kind} {name!r} has not one origin", f"give it {forms}")
    return _origin(service, section, origins[0], given[origins[0]])


def _origin(service: Service, section: str, origin: str, node: Node) -> Json:
    if origin == "content":
        return {"content": text(node)}
    if origin == "environment":
        value = service.project.loader.variables.get(text(node))
        if value is None:
            hint = "set it in .env, in the environment or by the option env"
            raise node.failure(f"the variable {text(node)} is not set", hint)
        return {"content": value}
    path = service.project.inside(node, text(node))
    if not path.is_file():
        raise node.failure(f"{path} is not a file", "create it on the controller")
    length, longest = path.stat().st_size, _LONGEST[section]
    if length > longest or (section == "secrets" and not length):
        problem = f"{path} has {length} bytes, and 1 to {longest} can be carried over"
        raise node.failure(problem, "shorten it, or mount it by volumes")
    return {"src": os.path.normpath(path)}
