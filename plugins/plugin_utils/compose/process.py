# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The workload of a service: command, user, names, environment."""

from __future__ import annotations

import shlex

from .model import Service
from .nodes import Node
from .project import read_env
from .values import boolean, known, one_or_more, pairs, scalar, sequence, text

_ENV_FILE = ("path", "required", "format")


def command(service: Service) -> None:
    words = {key: _words(service.node.value.get(key)) for key in ("command", "entrypoint")}
    own, entry = words["command"], words["entrypoint"]
    if entry == [] and not own:
        node = service.node.value["entrypoint"]
        hint = "give the service a command: it then runs without the image's entrypoint"
        raise node.failure("an empty entrypoint leaves nothing to run", hint)
    if entry == [] and own:
        # An empty entrypoint is the image's in sandlot, and none in Compose.
        entry, own = own[:1], own[1:]
    for option, value in (("entrypoint", entry), ("command", own)):
        if value:
            origin = service.get(option) or service.node.value["command"]
            service.sandbox.set(option, value, origin)


def _words(node: Node | None) -> list[str] | None:
    """Arguments; None when the image's are used."""
    if node is None or node.value is None:
        return None
    if isinstance(node.value, list):
        return [scalar(item) for item in node.value]
    try:
        return shlex.split(text(node))
    except ValueError as error:
        hint = "close the quote, or write the command as a list"
        raise node.error(f"can't be split: {error}", hint) from error


def user(service: Service) -> None:
    for key in ("user", "working_dir"):
        node = service.get(key)
        if node and text(node):
            service.sandbox.set(key, text(node), node)
    groups = service.get("group_add")
    if groups and sequence(groups):
        hint = "leave it out; one group can be given as user: USER:GROUP"
        raise groups.failure("sandboxes have no further groups", hint)


def hostname(service: Service) -> None:
    name, domain = service.get("hostname"), service.get("domainname")
    if domain:
        whole = f"{text(name) if name else service.name}.{text(domain)}"
        service.sandbox.set("hostname", whole, domain)
    elif name:
        service.sandbox.set("hostname", text(name), name)


def environment(service: Service) -> None:
    """Values that are not in the Compose file are marked secret."""
    given: dict[str, tuple[str, bool, Node]] = {}
    files = service.get("env_file")
    for node in one_or_more(files) if files else []:
        for name, value in _from_file(service, node).items():
            given[name] = (value, True, node)
    own = service.get("environment")
    for name, item in (pairs(own) if own else {}).items():
        if item.value is not None:
            given[name] = (scalar(item), item.outside, item)
        elif name in service.project.loader.variables:
            given[name] = (service.project.loader.variables[name], True, item)
        else:
            given.pop(name, None)
            service.warn(item, f"the variable {name} is not set, so the service does not get it")
    for name, (value, is_secret, node) in given.items():
        entry = {"value": value, "secret": True} if is_secret else value
        service.sandbox.put("env", name, entry, node)


def _from_file(service: Service, node: Node) -> dict[str, str]:
    fields = {"path": node}
    if isinstance(node.value, dict):
        fields = known(node, _ENV_FILE, "env_file")
    if "path" not in fields:
        raise node.failure("names no file", "give it `path: FILE`")
    path = service.project.inside(node, text(fields["path"]))
    is_required = boolean(fields["required"]) if "required" in fields else True
    if not path.is_file():
        if not is_required:
            return {}
        hint = "create it, or write it as `path: FILE` with `required: false`"
        raise fields["path"].failure(f"{path} is not a file", hint)
    kind = text(fields["format"]) if "format" in fields else ""
    if kind not in ("", "raw"):
        raise fields["format"].error("is no format of env files", "use raw, or leave it out")
    loader = service.project.loader
    return read_env(path, loader.variables, loader.show, raw=kind == "raw")


def labels(service: Service) -> None:
    files = service.get("label_file")
    for node in one_or_more(files) if files else []:
        path = service.project.inside(node, text(node))
        if not path.is_file():
            raise node.failure(f"{path} is not a file", "create it, or leave it out")
        loader = service.project.loader
        for name, value in read_env(path, loader.variables, loader.show).items():
            service.sandbox.put("labels", name, value, node)
    own = service.get("labels")
    for name, item in (pairs(own) if own else {}).items():
        service.sandbox.put("labels", name, "" if item.value is None else scalar(item), item)


def terminal(service: Service) -> None:
    for key in ("tty", "stdin_open"):
        node = service.get(key)
        if node and boolean(node):
            service.warn(node, "the workload gets no terminal and no input; use sandlot exec -i -t")
