# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Validates the volumes of users; a SpecError names the option."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, Iterable, Mapping

from ..spec.argspec import arguments
from ..spec.option import check, named, read
from ..spec.table.volumes import OPTIONS
from ..spec.text import mapping
from .model import VolumeSpec


def normalise(raw: Iterable[Mapping[str, Any]], option: str = "volumes") -> Dict[str, VolumeSpec]:
    return {item.name: item for item in named(option, raw, _volume)}


def normalise_one(raw: Mapping[str, Any]) -> Dict[str, VolumeSpec]:
    """The volume of a module's own options, by name."""
    item = _of(raw, "")
    return {item.name: item}


def argument_spec() -> Dict[str, Any]:
    """Ansible's argument spec of one volume."""
    return arguments(OPTIONS)


def _volume(option: str, raw: Any) -> VolumeSpec:
    return _of(mapping(option, raw), f"{option}.")


def _of(raw: Mapping[str, Any], prefix: str) -> VolumeSpec:
    values = read(OPTIONS, raw, prefix)
    check(OPTIONS, SimpleNamespace(**values), prefix)
    return VolumeSpec(**values)
