#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the README of each role from its argument specs, as Galaxy wants one.

Run it after a change of an argument spec; tests/unit/test_roles.py fails until then.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parent.parent
ROLES = sorted((TOP / "roles").iterdir())
_MARKUP = re.compile(r"\b[A-Z]{1,2}\(([^)]*)\)")

PAGE = """\
<!-- SPDX-License-Identifier: GPL-3.0-or-later -->
<!-- tests/document_roles.py writes this page from meta/argument_specs.yml. -->

# sandlot.sandlot.{name}

{summary}.

{description}

```yaml
- hosts: all
  become: true
  roles:
    - role: sandlot.sandlot.{name}
```

## Variables

| Variable | Type | Default | Description |
|---|---|---|---|
{rows}
{entries}"""

ENTRY = """
## Entry point {name}

{summary}.

{description}

| Variable | Type | Default | Description |
|---|---|---|---|
{rows}
"""


def readme(role: Path) -> str:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    spec = specs["main"]
    return PAGE.format(
        name=role.name,
        summary=spec["short_description"],
        description=_text(spec["description"]),
        rows=_rows(spec),
        entries="".join(_entry(name, spec) for name, spec in specs.items() if name != "main"),
    )


def _entry(name: str, spec: dict[str, Any]) -> str:
    summary, description = spec["short_description"], _text(spec["description"])
    return ENTRY.format(name=name, summary=summary, description=description, rows=_rows(spec))


def _rows(spec: dict[str, Any]) -> str:
    return "\n".join(_row(name, option) for name, option in spec["options"].items())


def _row(name: str, option: dict[str, Any]) -> str:
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
    default = json.dumps(option["default"])
    return f"| `{name}` | {kind} | `{default}` | {_text(option['description'])} |"


def _text(sentences: list[str]) -> str:
    """The sentences as Markdown, with Ansible's markup as code."""
    return _MARKUP.sub(r"`\1`", " ".join(sentences))


if __name__ == "__main__":
    for role in ROLES:
        (role / "README.md").write_text(readme(role))
