# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Validates a user's images and makes ImageSpecs of them; a SpecError names the bad option."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any, Dict, List, Sequence

from ..errors import SpecError
from ..spec.argspec import arguments
from ..spec.names import image_name
from ..spec.option import Option, named
from ..spec.text import choice, mapping, missing, refusal
from . import setup
from .model import ImageSpec, Source
from .sources import SOURCES

# The file name of a record is the image's name, in which "/" takes three characters.
MAX_NAME = 80
STATES = ("present", "absent")


def _name(option: str, value: Any) -> str:
    name = image_name(option, value)
    if len(name) > MAX_NAME:
        raise refusal(option, name, "is too long", hint=f"use at most {MAX_NAME} characters")
    if "@" in name:
        hint = "leave it out: NAME@sha256:DIGEST is how a sandbox pins an image"
        raise refusal(option, name, "has an @", hint=hint)
    return name


# The options of every image; each source adds its own.
COMMON = (
    Option(
        "name",
        "str",
        _name,
        [
            "Name that sandboxes refer to.",
            f"Up to {MAX_NAME} ASCII letters, digits and C(_.:@/+-), a letter or digit first.",
        ],
        required=True,
    ),
    Option(
        "state",
        "str",
        partial(choice, choices=STATES),
        ["Whether the image is on the host.", "An image that a sandbox uses can't be removed."],
        default=STATES[0],
        choices=STATES,
    ),
    Option(
        "source",
        "str",
        partial(choice, choices=SOURCES),
        [
            "The way to make the image. Required when O(state=present).",
            *(f"V({kind}) is {source.description}." for kind, source in SOURCES.items()),
        ],
        choices=tuple(SOURCES),
    ),
)


def normalise_all(raw: Any, option: str = "images") -> List[ImageSpec]:
    return named(option, raw, lambda path, item: normalise(item, path))


def normalise(raw: Any, option: str = "image") -> ImageSpec:
    """The spec of one image; SpecError names the option."""
    given = {key: value for key, value in mapping(option, raw).items() if value is not None}
    common = {row.name: row.value(given.get(row.name), f"{option}.") for row in COMMON}
    name, kind = common["name"], common["source"]
    if common["state"] == "absent":
        return ImageSpec(name, state=common["state"])
    if kind is None:
        raise missing(f"{option}.source")
    source = SOURCES[kind]
    rows = _rows(source)
    taken = tuple(row.name for row in (*COMMON, *rows))
    for key in given:
        if key not in taken:
            known = any(key == row.name for source in SOURCES.values() for row in _rows(source))
            problem = f"is not an option of source {kind}" if known else "is unknown"
            raise SpecError(option, key, problem, hint=f"it takes {', '.join(taken)}")
    values = {row.name: row.value(given.get(row.name), f"{option}.") for row in rows}
    # As a record has them: a tuple would differ from the list that JSON makes of it in each run.
    values = json.loads(json.dumps({key: x for key, x in values.items() if x is not None}))
    steps = tuple(values.pop(setup.OPTION.name, ()))
    spec = ImageSpec(name, kind, common["state"], values, steps)
    source.check(option, spec)
    return spec


def _rows(source: Source) -> Sequence[Option]:
    return (*source.options, *(() if source.tmpfs else setup.OPTIONS))


def argument_spec() -> Dict[str, Any]:
    """Ansible's argument spec of one image."""
    return arguments(options())


def options() -> List[Option]:
    """The common rows and the rows of all sources; rows with the same name share a description.

    Each source accepts only its own choices.
    """
    by_name: Dict[str, Option] = {}
    takers: Dict[str, Dict[Sequence[str], List[str]]] = {}
    for kind, source in SOURCES.items():
        for row in _rows(source):
            first = by_name.setdefault(row.name, row)
            choices = tuple(dict.fromkeys((*first.choices, *row.choices)))
            by_name[row.name] = replace(first, choices=choices)
            by_text = takers.setdefault(row.name, {})
            by_text.setdefault(tuple(row.description), []).append(kind)
    described = list(COMMON)
    for row in by_name.values():
        texts: List[str] = []
        for description, kinds in takers[row.name].items():
            texts += [*description, f"For {_listed(kinds)}."]
        described.append(replace(row, description=tuple(texts)))
    return described


def _listed(kinds: Sequence[str]) -> str:
    """Sources in Ansible's markup; a majority as "all sources but ..."."""
    others = [kind for kind in SOURCES if kind not in kinds]
    if len(kinds) > len(others) > 0:
        return f"all sources but {_listed(others)}"
    if not others:
        return "all sources"
    return " and ".join(f"O(source={kind})" for kind in kinds)
