# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""From what a user wrote about images to ImageSpecs, or to a SpecError that names the option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Sequence

from ..errors import SpecError
from ..spec.argspec import arguments
from ..spec.names import image_name
from ..spec.option import Option
from ..spec.text import choice, mapping, missing, refusal, sequence, unique
from . import setup
from .model import ImageSpec, Source
from .sources import SOURCES

# A record's file name is the image's name with "/" written as three characters.
MAX_NAME = 80
_COMMON = ("name", "source", "state")
STATES = ("present", "absent")


def normalise_all(raw: Any, option: str = "images") -> List[ImageSpec]:
    items = sequence(option, raw)
    specs = [normalise(item, f"{option}[{index}]") for index, item in enumerate(items)]
    unique(option, (spec.name for spec in specs), what="name")
    return specs


def normalise(raw: Any, option: str = "image") -> ImageSpec:
    """The spec of one image; SpecError names the option."""
    given = {key: value for key, value in mapping(option, raw).items() if value is not None}
    name = _name(option, given)
    state = choice(f"{option}.state", given.get("state", "present"), choices=STATES)
    if state == "absent":
        return ImageSpec(name, state=state)
    if "source" not in given:
        raise missing(f"{option}.source")
    kind = choice(f"{option}.source", given["source"], choices=SOURCES)
    source = SOURCES[kind]
    rows = _rows(source)
    _check_options(option, kind, rows, given)
    values = {row.name: row.value(given.get(row.name), f"{option}.") for row in rows}
    known = {key: value for key, value in values.items() if value is not None}
    steps = known.pop(setup.OPTION.name, ())
    spec = ImageSpec(name, kind, state, known, steps)
    source.check(option, spec)
    return spec


def _rows(source: Source) -> Sequence[Option]:
    return (*source.options, *(() if source.tmpfs else setup.OPTIONS))


def _name(option: str, given: Mapping[str, Any]) -> str:
    if "name" not in given:
        raise missing(f"{option}.name")
    name = image_name(f"{option}.name", given["name"])
    if len(name) > MAX_NAME:
        hint = f"use at most {MAX_NAME} characters"
        raise refusal(f"{option}.name", name, "is too long", hint=hint)
    if "@" in name:
        hint = "leave it out: NAME@sha256:DIGEST is how a sandbox pins an image"
        raise refusal(f"{option}.name", name, "has an @", hint=hint)
    return name


def _check_options(
    option: str, source: str, rows: Sequence[Option], given: Mapping[str, Any]
) -> None:
    taken = (*_COMMON, *(row.name for row in rows))
    everywhere = {row.name for each in SOURCES.values() for row in _rows(each)}
    for key in given:
        if key not in taken:
            known = key in everywhere
            problem = f"is not an option of source {source}" if known else "is unknown"
            raise SpecError(option, key, problem, hint=f"it takes {', '.join(taken)}")


def argument_spec() -> Dict[str, Any]:
    """Ansible's argument spec of one image."""
    return {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": list(STATES), "default": STATES[0]},
        "source": {"type": "str", "choices": list(SOURCES)},
        **arguments(options()),
    }


def options() -> List[Option]:
    """The rows of all sources by name; rows of one name are described together."""
    found: Dict[str, Option] = {}
    takers: Dict[str, Dict[Sequence[str], List[str]]] = {}
    for kind, source in SOURCES.items():
        for row in _rows(source):
            found.setdefault(row.name, row)
            by_text = takers.setdefault(row.name, {})
            by_text.setdefault(tuple(row.description), []).append(kind)
    return [_told(row, takers[row.name]) for row in found.values()]


def _told(row: Option, by_text: Mapping[Sequence[str], Sequence[str]]) -> Option:
    texts = []
    for description, kinds in by_text.items():
        texts += [*description, f"For {_listed(kinds)}."]
    return replace(row, description=tuple(texts))


def _listed(kinds: Sequence[str]) -> str:
    """Sources as Ansible's markup; most of them by what they are not."""
    others = [kind for kind in SOURCES if kind not in kinds]
    if len(kinds) > len(others) > 0:
        return f"all sources but {_listed(others)}"
    if not others:
        return "all sources"
    return " and ".join(f"O(images[].source={kind})" for kind in kinds)
