# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Stored specs: JSON by the option table, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Mapping

from ..errors import SpecError, StateError
from . import netmode
from .model import Spec
from .names import default_hostname
from .option import Option, read
from .options import BY_NAME, OPTIONS, STORED


def to_json(spec: Spec) -> Dict[str, Any]:
    """Every stored option, in a notation that the same table can read again."""
    rows = {option.name: (option, getattr(spec, option.name)) for option in STORED}
    return {
        name: option.dump(value)
        for name, (option, value) in rows.items()
        if not option.later or value != option.value(None)
    }


def from_json(data: Mapping[str, Any]) -> Spec:
    """Read a stored spec; options that its writer did not know get their defaults."""
    try:
        return from_table({key: _loaded(BY_NAME.get(key), x) for key, x in data.items()})
    except SpecError as error:
        hint = "deploy it again, with the version of sandlot that wrote it or a newer one"
        raise StateError(f"stored spec is unusable: {error.message}", hint=hint) from error


def _loaded(row: Option | None, value: Any) -> Any:
    """The raw value; None for the default, as most of a record's values are."""
    if row is None:
        return value
    return None if value == row.stored_default and not row.required else row.load(value)


def digest(spec: Spec) -> str:
    """SHA-256 of the stored options, in hexadecimal."""
    text = json.dumps(to_json(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_table(raw: Mapping[str, Any]) -> Spec:
    """Read each option by itself; the caller checks options against each other."""
    if raw.get("networks") is None and raw.get("network_mode") not in (None, netmode.BRIDGE):
        raw = {**raw, "networks": []}
    fields = read(OPTIONS, raw)
    fields["image"] = fields["image"] or ""
    fields["hostname"] = fields["hostname"] or default_hostname(fields["name"])
    return Spec(**fields)
