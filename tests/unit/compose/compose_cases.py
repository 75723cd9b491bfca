# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Cases of conversions as data: files of a project, and what becomes of them.

A case has ``file`` (a whole Compose file) or ``service`` (the keys of one service). ``also`` are
more files, ``merge`` those that are merged, ``options`` those of the lookup.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml
from sandlot_plugins.plugin_utils import compose

Json = dict[str, Any]
CASES = Path(__file__).parent / "cases"
# Line 1 of "service" is this one of the file.
FIRST = 4
HEAD = "services:\n  web:\n    image: app:1\n"


def cases(name: str) -> list[Any]:
    """The cases of a file as pytest parameters, named by their titles."""
    import pytest

    rows = yaml.safe_load((CASES / f"{name}.yml").read_text())
    return [pytest.param(row, id=row["title"].replace(" ", "_")) for row in rows]


def subjects() -> list[str]:
    return sorted(path.stem for path in CASES.glob("*.yml"))


def written(case: Json, directory: Path) -> list[Path]:
    """The files of a case; the first one is the Compose file."""
    whole = case.get("file")
    if whole is None:
        whole = HEAD + textwrap.indent(case.get("service", ""), "    ") + case.get("rest", "")
    files = {"compose.yml": whole, **case.get("also", {})}
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return [directory / name for name in ("compose.yml", *case.get("merge", ()))]


def converted(case: Json, directory: Path) -> tuple[Json, list[str]]:
    files = written(case, directory)
    given = dict(case.get("options", {}))
    env_files = [directory / name for name in given.pop("env_file", ())]
    variables = given.pop("env", {})
    name = given.pop("project", "demo")
    warnings: list[str] = []
    result = compose.convert(
        files,
        request=compose.Request(**given),
        env_files=env_files,
        variables=variables,
        name=name,
        warn=warnings.append,
    )
    return result, warnings


def usual(sandbox: Json) -> Json:
    """The options of a sandbox without those that every service has."""
    common = {"restart_policy": "no", "networks": [{"name": "demo_default"}], "image": "app:1"}
    hidden = {key for key, value in common.items() if sandbox.get(key) == value}
    return {key: value for key, value in sandbox.items() if key not in {*hidden, "name"}}
