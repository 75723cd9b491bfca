# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks what was made by the engine's tables, and gives its errors a file and a line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...module_utils.sandlot.errors import SpecError
from ...module_utils.sandlot.images.normalise import normalise_all as normalise_images
from ...module_utils.sandlot.network.common import declare as networks
from ...module_utils.sandlot.site import Site
from ...module_utils.sandlot.spec import normalise
from ...module_utils.sandlot.spec.names import check_new
from ...module_utils.sandlot.spec.text import brief
from ...module_utils.sandlot.volumes import declare as volumes
from .model import Json, Project, Sandbox
from .nodes import ComposeError, Node

_INDEX = re.compile(r"^[a-z]+\[0\][.:]? ?")


def check(project: Project) -> None:
    for sandboxes in project.sandboxes.values():
        for sandbox in sandboxes:
            _sandbox(sandbox)
    _entries(project, "images", project.images, normalise_images)
    _entries(project, "networks", project.networks, lambda raw: networks.normalise(Site(), raw))
    _entries(project, "volumes", project.volumes, volumes.normalise)
    _names(project)


def _sandbox(sandbox: Sandbox) -> None:
    if "name" in sandbox.options:
        hint = "rename the service, or leave it out"
        raise sandbox.origin("name").failure("a sandbox has the name of its service", hint)
    try:
        check_new(sandbox.name)
        normalise({"name": sandbox.name, **_with_contents(sandbox.options)})
    except SpecError as error:
        raise _explained(sandbox.origin(error.option, error.value), error) from error


def _with_contents(options: Json) -> Json:
    """The options as the engine gets them: an action plugin puts files in their place."""
    whole = dict(options)
    for option, field in (("files", "content"), ("secrets", "value")):
        rows = [dict(row) for row in options.get(option, ())]
        for row in rows:
            if row.pop("src", None) is not None or row.pop("template_src", None) is not None:
                # A secret can't be empty.
                row[field] = "x"
        if rows:
            whole[option] = rows
    return whole


def _explained(node: Node, error: SpecError) -> ComposeError:
    """The error at its place; a value from outside of the file is not shown."""
    message = error.message
    if node.outside:
        message = message.replace(repr(error.value), brief(node.raw))
    return node.failure(message, error.hint)


def _entries(
    project: Project, kind: str, entries: dict[str, Json], parse: Callable[[list[Json]], Any]
) -> None:
    """Each entry alone, then all, as some fit each other no more."""
    for name, entry in entries.items():
        node = project.origins.get((kind, name), project.tree)
        try:
            parse([entry])
        except SpecError as error:
            error.message = _INDEX.sub("", error.message)
            raise _explained(node, error) from error
    try:
        parse(list(entries.values()))
    except SpecError as error:
        raise _explained(project.tree.get(kind) or project.tree, error) from error


def _names(project: Project) -> None:
    """A name or alias stands for one sandbox of a network."""
    holders: dict[tuple[str, str], str] = {}
    sandboxes = [one for many in project.sandboxes.values() for one in many]
    for sandbox in sandboxes:
        for entry in sandbox.options.get("networks", ()):
            holders[entry["name"], sandbox.name.lower()] = sandbox.name
    for sandbox in sandboxes:
        for index, entry in enumerate(sandbox.options.get("networks", ())):
            for alias in entry.get("aliases", ()):
                other = holders.setdefault((entry["name"], alias.lower()), sandbox.name)
                if other != sandbox.name:
                    node = sandbox.origin(f"networks[{index}]")
                    hint = "a name leads to one sandbox: give each one of its own"
                    problem = f"the alias {alias!r} is a name of {other} on the same network"
                    raise node.failure(problem, hint)
