#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Writes the options of all kinds into the documentation of the modules, from the tables.

Run it after a change of a table; tests/unit/test_modules.py fails until then.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "module_utils"))

from sandlot import images  # noqa: E402
from sandlot import spec as sandbox_spec  # noqa: E402
from sandlot.modules import sandbox_run  # noqa: E402
from sandlot.spec.table import networks, volumes  # noqa: E402

LIBRARY = TOP / "library"
_BLOCK = re.compile(r'(DOCUMENTATION = r""")\n(.*?)(""")', re.S)
WRITTEN = (
    *("sandbox", "sandboxes", "sandbox_rootfs", "sandbox_run", "sandbox_network"),
    "sandbox_volume",
)
# Where a job differs from a sandbox.
OF_JOBS = {
    "command": [
        "Program and arguments, put after O(entrypoint); a list, or a string that is split into "
        "words as a shell does. No shell runs, and nothing is expanded.",
        "Without it and O(argv), the command of the image, unless O(entrypoint) is set.",
    ],
    "env": [
        "Environment variables, beside those of the image. Quote values that YAML would read as "
        "booleans or numbers; others than text are refused.",
        "Results and messages hide their values, and nothing on the host keeps them.",
    ],
    "hostname": ["Host name inside the sandbox, V(job-N) by default."],
    "volumes": [
        "Volumes and paths of the host, each as V(SOURCE:TARGET) or V(SOURCE:TARGET:WORDS).",
        "A source with a leading slash is a path of the host; another one is the name of a volume "
        "of the host, which has to exist.",
        "Words, separated by commas, are C(ro), C(rw), C(noexec), for volumes C(nocopy), for paths "
        "of the host C(idmap) and those of O(mounts[].propagation).",
    ],
    "network_mode": [
        "V(none), with C(lo) alone; or V(container:NAME) for the network of a sandbox.",
        "Defaults to V(none), unless O(networks) is set.",
    ],
    "networks": [
        "Networks of the host that the job is on, as for a sandbox, in place of O(network_mode). "
        "Such a job takes as long as a deploy of a sandbox.",
    ],
}
WIDTH = 86
LIMIT = 96
# Names of options are paths from the top in Ansible's markup.
_OPTION = re.compile(r"\bO\((?=\w)")


class _Dumper(yaml.SafeDumper):
    """Block style with indented lists, as yamllint wants it; short lists of words in one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _sequence(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    short = all(isinstance(item, str) and " " not in item for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(list, _sequence)


def dump(data: Any) -> str:
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
    return "\n".join(part for line in text.split("\n") for part in _folded(line))


def _folded(line: str) -> list[str]:
    """PyYAML breaks a line after it has become too long; a scalar goes on with any indentation."""
    if len(line) <= LIMIT:
        return [line]
    cut = line.rfind(" ", 0, LIMIT)
    start = len(line) - len(line.lstrip(" -"))
    return [line[:cut], " " * start + line[cut + 1 :]]


def documented(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The documentation with the tables' options in place."""
    if name == "sandbox":
        return {**found, "options": sandbox_spec.options_documentation()}
    if name == "sandbox_volume":
        return {**found, "options": sandbox_spec.documentation(volumes.OPTIONS)}
    if name == "sandbox_run":
        rows = sandbox_spec.documentation(sandbox_run.OPTIONS)
        for option, text in OF_JOBS.items():
            rows[option]["description"] = text
        return {**found, "options": {**found["options"], **rows}}
    tables = {
        "images": images.options(),
        "networks": networks.OPTIONS,
        "volumes": volumes.OPTIONS,
        "sandboxes": sandbox_spec.OPTIONS,
    }
    mine = found["options"]
    for option in tables.keys() & mine.keys():
        rows = sandbox_spec.documentation(tables[option])
        mine[option]["suboptions"] = _below(f"{option}[]", rows)
    return found


def _below(parent: str, options: Any) -> Any:
    if isinstance(options, dict):
        return {key: _below(parent, value) for key, value in options.items()}
    if isinstance(options, list):
        return [_below(parent, value) for value in options]
    return _OPTION.sub(f"O({parent}.", options) if isinstance(options, str) else options


def documentation(path: Path) -> dict[str, Any]:
    found = _BLOCK.search(path.read_text())
    assert found, path
    data: dict[str, Any] = yaml.safe_load(found[2])
    return data


def rewrite(path: Path) -> None:
    text = dump(documented(path.stem, documentation(path)))
    path.write_text(_BLOCK.sub(lambda found: f"{found[1]}\n{text}{found[3]}", path.read_text()))


if __name__ == "__main__":
    for module in WRITTEN:
        rewrite(LIBRARY / f"{module}.py")
