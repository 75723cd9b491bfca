# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option table as Ansible's argument spec and documentation.

No option has an Ansible default: a missing value must stay None, so that the defaults of a host can
take its place. The engine's defaults are in the descriptions.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable

from .option import Option
from .options import OPTIONS

Json = Dict[str, Any]


class Row(Json):
    """A row of an argument spec, with the option that it is made of."""

    # ansible-test copies rows as it would plain mappings, without their options.
    def __init__(self, option: Option | None = None) -> None:
        super().__init__(_typing(option) if option else {})
        self.is_numeric = bool(option and option.numeric)
        self.is_secret = bool(option and option.secret)


def argument_spec() -> Json:
    """The argument spec of one sandbox."""
    return arguments(OPTIONS)


def arguments(options: Iterable[Option]) -> Json:
    """The argument spec of these rows."""
    rows: Json = {}
    for option in options:
        row = rows[option.name] = Row(option)
        if option.no_log:
            row["no_log"] = True
        elif option.secret:
            # Values are hidden at their place: Ansible would take each "1" out of all results.
            row["no_log"] = False
        # Given a number for a dict with suboptions, Ansible's own check ends in a traceback; the
        # engine knows suboptions anyway.
        if option.suboptions and option.type == "list":
            row["options"] = arguments(option.suboptions)
    return rows


def _typing(option: Option) -> Json:
    row: Json = {"type": option.type}
    if option.required:
        row["required"] = True
    if option.elements:
        row["elements"] = option.elements
    if option.choices:
        row["choices"] = list(option.choices)
    return row


def options_documentation() -> Json:
    """The `options` of a module's DOCUMENTATION."""
    return documentation(OPTIONS)


def documentation(options: Iterable[Option]) -> Json:
    """The `options` of a DOCUMENTATION for these rows."""
    rows: Json = {}
    for option in options:
        default, description = option.default, [*option.description]
        if option.name == "networks":
            description.append("Defaults to one interface on the network V(default).")
        elif default not in (None, [], {}):
            shown = str(default).lower() if isinstance(default, bool) else default
            description.append(f"Defaults to V({shown}).")
        rows[option.name] = {"description": description, **_typing(option)}
        if option.suboptions:
            rows[option.name]["suboptions"] = documentation(option.suboptions)
    return rows
