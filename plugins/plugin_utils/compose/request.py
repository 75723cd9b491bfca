# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks the options of the lookup, as far as Ansible's types leave it open.

Values may be secrets: no message has them.
"""

from __future__ import annotations

import ipaddress
import os

from .model import Project
from .network import PREFIX
from .nodes import ComposeError
from .values import sequence, text

_EXAMPLES = {
    "images": "a name of an image, or fields as {username: NAME}",
    "secrets": "fields, as {value: TEXT} or {src: FILE}",
    "configs": "fields, as {content: TEXT} or {src: FILE}",
    "instances": "options of a sandbox, as {memory: 64m}",
}


def check_request(project: Project) -> None:
    """Refuse values of a wrong type, and names that the Compose file does not have."""
    for option, example in _EXAMPLES.items():
        for name, value in getattr(project.request, option).items():
            right = isinstance(value, dict) or (option == "images" and isinstance(value, str))
            if not right:
                raise _failure(f"{option}[{name!r}]", "has a value of a wrong type", example)
    for option in ("secrets", "configs", "instances"):
        _check_names(project, option, "services" if option == "instances" else option)
    _check_images(project)
    _check_profiles(project)
    _check_places(project)


def _failure(where: str, problem: str, hint: str) -> ComposeError:
    return ComposeError(f"option {where} {problem}; write {hint}")


def _check_names(project: Project, option: str, section: str) -> None:
    present = project.section(section)
    for name in getattr(project.request, option):
        if name not in present:
            problem = f"names none of the {section} of the Compose file"
            names = ", ".join(present)
            hint = f"one of: {names}" if names else f"it for a file that has {section}"
            raise _failure(f"{option}[{name!r}]", problem, hint)


def _check_images(project: Project) -> None:
    """A warning only: one mapping may serve several Compose files."""
    services = project.section("services")
    references = {text(node) for x in services.values() if (node := x.get("image"))}
    for name in project.request.images:
        if name not in {*services, *references}:
            hint = "write the name of a service, or the text of its image"
            line = f"option images[{name!r}] is no service and no image of the Compose file"
            project.warn(project.tree, f"{line}; {hint}")


def _check_profiles(project: Project) -> None:
    lists = [x.get("profiles") for x in project.section("services").values()]
    present = {text(item) for node in lists if node for item in sequence(node)}
    for name in project.request.profiles or ():
        if name not in {*present, "*"}:
            known = f"there are: {', '.join(sorted(present))}" if present else "there are none"
            project.warn(project.tree, f"option profiles: {name!r} is no profile here; {known}")


def _check_places(project: Project) -> None:
    directory, pool = project.request.directory, project.request.subnet_pool
    if directory is not None and not os.path.isabs(directory):
        raise _failure(f"directory: {directory!r}", "is no absolute path", "a path of the host")
    try:
        size = ipaddress.IPv4Network(pool).prefixlen
    except ValueError:
        size = PREFIX + 1
    if size > PREFIX:
        problem = f"is no range of IPv4 with at least a /{PREFIX}"
        raise _failure(f"subnet_pool: {pool!r}", problem, "one such as 10.78.0.0/15")
