# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Turns a Compose project into the variables of an inventory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import images, keys, supervision
from .check import check
from .model import Json, Project, Request, Sandbox, Service
from .nodes import Node, placed
from .project import SECTIONS, Loader, environment
from .request import check_request
from .values import integer, mapping, plain, sequence, text, unknown

MAX_REPLICAS = 100
# The extension of a service with options of its sandbox.
OPTIONS = "x-sandlot"
_SERVICE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
_TOP = ("version", "name", "include", "services", "networks", "volumes", "configs", "secrets")


def convert(
    files: Sequence[Path],
    *,
    request: Request,
    env_files: Sequence[Path] = (),
    variables: Mapping[str, str],
    name: str | None = None,
    warn: Callable[[str], None],
) -> Json:
    """The variables of an inventory; ``warn`` gets lines with their places.

    ``variables`` win over those of ``env_files``. The project's directory is that of the first
    file.
    """
    shown: set[str] = set()

    def once(line: str) -> None:
        if line not in shown:
            shown.add(line)
            warn(line)

    base = files[0].parent
    known = environment(env_files, variables, once)
    wanted = name or known.get("COMPOSE_PROJECT_NAME")
    chosen = project_name(wanted or _usual_name(files[0]))
    loader = Loader({**known, "COMPOSE_PROJECT_NAME": chosen}, once)
    tree = loader.project(files, base)
    given = tree.get("name")
    if given and not wanted:
        chosen = project_name(text(given))
        # The files may have the name as a variable.
        loader = Loader({**known, "COMPOSE_PROJECT_NAME": chosen}, once)
        tree = loader.project(files, base)
    project = Project(chosen, base, placed(tree), loader, request)
    _check_top(project)
    check_request(project)
    _activate(project)
    for service, node in project.services.items():
        _convert(project, service, node)
    _check_cycles(project)
    check(project)
    return _result(project)


def _usual_name(file: Path) -> str:
    """The directory's name, as in Compose, unless the file has a name of its own."""
    is_usual = file.name.startswith(("compose", "docker-compose"))
    return file.parent.name if is_usual else file.stem


def project_name(text: str) -> str:
    """The name as Compose writes it: lower-case letters, digits, dashes and underscores."""
    name = re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")
    return name or "compose"


def _result(project: Project) -> Json:
    sandboxes = [one for many in project.sandboxes.values() for one in many]
    return {
        "sandbox_images": images.rows(project),
        "sandbox_networks": list(project.networks.values()),
        "sandbox_volumes": list(project.volumes.values()),
        "sandbox_instances": [{"name": one.name, **one.options} for one in sandboxes],
    }


def _check_top(project: Project) -> None:
    for key, node in mapping(project.tree).items():
        if key == "models" and node.value:
            raise node.failure("sandlot runs no models", "leave it out")
        if key not in (*_TOP, "models") and not key.startswith("x-"):
            raise unknown(node, key, list(_TOP), "a Compose file")
        if key in SECTIONS and node.value is not None:
            mapping(node)
    if not project.section("services"):
        raise project.tree.failure(
            "there are no services", "give it `services: {NAME: {image: IMAGE}}`"
        )
    for name, node in project.section("services").items():
        if not _SERVICE.fullmatch(name):
            hint = "use letters, digits, '_', '.' and '-', a letter or digit first"
            raise node.failure(f"{name!r} is not the name of a service", hint)
        for key, item in mapping(node).items():
            if key not in keys.KEYS and not key.startswith("x-"):
                raise unknown(item, key, list(keys.KEYS), "a service")


def _activate(project: Project) -> None:
    """Choose the services of active profiles."""
    asked: Any = project.request.profiles
    if asked is None:
        asked = project.loader.variables.get("COMPOSE_PROFILES", "").split(",")
    active = set(asked)
    for name, node in project.section("services").items():
        own = node.get("profiles")
        wanted = {text(item) for item in sequence(own)} if own else set()
        if not wanted or "*" in active or wanted & active:
            project.services[name] = node
    if not project.services:
        profiles = "activate one by the option profiles"
        raise project.tree.failure("no service is in an active profile", profiles)
    for name, node in project.services.items():
        links = node.get("links")
        for item in sequence(links) if links else []:
            other, dummy, alias = text(item).partition(":")
            if alias and alias not in project.links.setdefault(other, []):
                project.links[other].append(alias)
        project.counts[name] = _count(node)


def _count(node: Node) -> int:
    """How many sandboxes a service gets."""
    scale, deploy = node.get("scale"), node.get("deploy")
    replicas = deploy.get("replicas") if deploy else None
    if scale and replicas and integer(scale) != integer(replicas):
        raise scale.failure("differs from deploy.replicas", "keep one of them")
    mode = deploy.get("mode") if deploy else None
    if mode and text(mode) not in ("replicated", "global"):
        raise mode.error("can't be carried over", "use replicated, or leave it out")
    chosen = scale or replicas
    count = integer(chosen) if chosen else 1
    if chosen and not 0 <= count <= MAX_REPLICAS:
        raise chosen.error("is no number of sandboxes", f"use 0 to {MAX_REPLICAS}")
    if chosen and count > 1:
        for key in ("container_name", "ports", "mac_address"):
            other = node.get(key)
            if other and other.value:
                raise _single(other, key, count)
        networks = node.get("networks")
        attached = networks.value if networks and isinstance(networks.value, dict) else {}
        for entry in attached.values():
            for key in ("ipv4_address", "ipv6_address", "mac_address"):
                if other := entry.get(key):
                    raise _single(other, key, count)
    return count


def _single(node: Node, key: str, count: int) -> Exception:
    problem = f"{key} is one sandbox's, but the service has {count}"
    return node.failure(problem, "leave it out, or set one replica")


def _convert(project: Project, name: str, node: Node) -> None:
    names = project.instances(name)
    project.sandboxes[name] = []
    if len(names) > 1:
        origin = node.get("scale") or node.get("deploy") or node
        others = " and ".join(filter(None, (", ".join(names[1:-1]), names[-1])))
        project.warn(origin, f"the name {name} leads to the first sandbox, and not to {others}")
    for instance in names:
        sandbox = Sandbox(instance, node)
        service = Service(name, node, project, sandbox)
        for key, item in mapping(node).items():
            if key in keys.KEYS:
                keys.apply(service, key, item)
        for group in keys.GROUPS:
            group(service)
        if not project.counts[name]:
            sandbox.set("state", "stopped", node)
        extension = node.get(OPTIONS)
        for option, item in mapping(extension).items() if extension else ():
            sandbox.set(option, plain(item), item)
        for option, value in (project.request.instances.get(name) or {}).items():
            sandbox.set(option, value, node)
        project.sandboxes[name].append(sandbox)


def _check_cycles(project: Project) -> None:
    graph = {}
    for name, node in project.services.items():
        service = Service(name, node, project, Sandbox(name, node))
        graph[name] = {other: item for other, (dummy, item) in supervision.needs(service).items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        for other, item in graph[name].items():
            if other in (*above, name):
                names = [*above, name, other]
                names = names[names.index(other) :]
                hint = "take one of them out of another's depends_on"
                raise item.failure(f"depends_on closes a cycle: {' -> '.join(names)}", hint)
            if other not in done:
                visit(other, (*above, name))
        done.add(name)

    for name in graph:
        if name not in done:
            visit(name, ())
