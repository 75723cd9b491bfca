# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Checks the arguments of a module as the playbook has them.

Ansible converts before it calls a module: a number or a boolean for text becomes text that nobody
wrote. Its own messages name neither the sandbox nor the remedy.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping

from ..errors import SpecError
from .argspec import Row
from .configuration import content
from .option import check_known
from .text import brief, choice, mapping, missing, refusal, sequence, text

Json = Dict[str, Any]

# Lists of a host, whose items a message calls by name.
KINDS = {"sandboxes": "sandbox", "images": "image", "networks": "network", "volumes": "volume"}
# Ansible's words, in lower case.
BOOLEANS = frozenset(("y", "yes", "on", "1", "true", "t", "n", "no", "off", "0", "false", "f"))


def check(rows: Mapping[str, Json], given: Mapping[str, Any], prefix: str = "") -> None:
    """SpecError for arguments that do not fit an argument spec."""
    aliases = {alias: name for name, row in rows.items() for alias in row.get("aliases", ())}
    check_known([*rows, *aliases], given, prefix)
    values = {key: value for key, value in given.items() if value is not None}
    for name, row in rows.items():
        if row.get("required") and not any(aliases.get(key, key) == name for key in values):
            raise missing(f"{prefix}{name}")
    for key, value in values.items():
        row = rows[aliases.get(key, key)]
        if row["type"] != "list":
            _value(f"{prefix}{key}", row["type"], row, value)
        elif row.get("elements") != "dict":
            _items(f"{prefix}{key}", row, value)
        else:
            # In an item, as in the module sandbox, a list is an option like others.
            kind = "" if "name" in rows else KINDS.get(key, "")
            items = sequence(f"{prefix}{key}", value, secret=_has_secrets(row))
            for index, item in enumerate(items):
                _item(kind, f"{prefix}{key}[{index}]", row, item)


def _items(option: str, row: Json, value: Any) -> None:
    if isinstance(value, str):
        return  # Ansible splits it at commas.
    for index, item in enumerate(sequence(option, value)):
        if item is None:
            hint = "give it a value, or leave the item out"
            raise refusal(f"{option}[{index}]", item, "is not an item", hint=hint)
        _value(f"{option}[{index}]", row.get("elements", "raw"), row, item)


def _item(kind: str, option: str, row: Json, item: Any) -> None:
    rows = row["options"]
    # The text of a whole mapping may have a secret in it, that of a name has none.
    pattern = r"[\w.-]{1,63}" if _has_secrets(row) else r"[ -~]{1,63}"
    plain = not _is_secret(row) and isinstance(item, str) and re.fullmatch(pattern, item)
    hint = f"write it as `- name: {item}`" if plain else "use `key: value`"
    hidden = _has_secrets(row) and not plain and item is not None
    given = mapping(option, item, secret=hidden, hint=hint)
    name = given.get("name")
    if not kind or not isinstance(name, str):
        check(rows, given, f"{option}.")
        return
    try:
        check(rows, given)
    except SpecError as error:
        error.name(f"{kind} {brief(name)}")
        raise


def _value(option: str, kind: str, row: Json, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if row.get("choices"):
        choice(option, value, choices=row["choices"])
    elif kind in ("str", "path"):
        if not (is_number and isinstance(row, Row) and row.is_numeric):
            _text(option, row, value)
    elif kind == "bool":
        if str(value).lower() not in BOOLEANS:
            raise refusal(option, value, "is not a boolean", hint="use true or false")
    elif kind in ("int", "float"):
        if not (is_number or isinstance(value, str)) or not _fits(kind, value):
            problem = "is not a whole number" if kind == "int" else "is not a number"
            raise refusal(option, value, problem, hint="use a number such as 10")
    elif kind == "dict":
        # A plain row, as that of defaults, says nothing of what is in it.
        mapping(option, value, secret=not isinstance(row, Row) or row.is_secret)


def _text(option: str, row: Json, value: Any) -> None:
    if _is_secret(row):
        content(option, value)
    else:
        text(option, value, secret=bool(row.get("no_log")))


def _is_secret(row: Json) -> bool:
    return isinstance(row, Row) and row.is_secret


def _has_secrets(row: Json) -> bool:
    inner = row.get("options", {}).values()
    return _is_secret(row) or bool(row.get("no_log")) or any(map(_has_secrets, inner))


def _fits(kind: str, value: Any) -> bool:
    try:
        return float(value).is_integer() or kind == "float"
    except (ValueError, OverflowError):
        return False
