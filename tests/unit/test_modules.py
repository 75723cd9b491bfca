# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the modules document is what they take, and the engine's own files are found."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sandlot import images, network, spec, volumes
from sandlot.errors import HostError
from sandlot.host import payload
from sandlot.jobs import options as job_options
from sandlot.site import Site

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))

import document_modules  # noqa: E402

MODULES = [
    *("sandbox", "sandboxes", "sandbox_exec", "sandbox_info", "sandbox_host", "sandbox_rootfs"),
    *("sandbox_network", "sandbox_run", "sandbox_snapshot", "sandbox_subid", "sandbox_volume"),
]
TYPING = ("type", "elements", "choices", "required", "default", "aliases")


def documentation(name: str) -> dict[str, Any]:
    return document_modules.documentation(TOP / "library" / f"{name}.py")


def arguments(name: str) -> dict[str, Any]:
    found: dict[str, Any] = importlib.import_module(f"sandlot.modules.{name}").ARGUMENTS
    return found


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """Documentation or argument spec, cut down to what both have to say.

    The engine checks the keys of mappings: Ansible's own check of them fails on other types.
    """
    return {
        name: {
            **{key: row[key] for key in TYPING if row.get(key) not in (None, False)},
            "options": taken(row.get("options") or row.get("suboptions") or {})
            if row["type"] == "list"
            else {},
        }
        for name, row in options.items()
    }


@pytest.mark.parametrize("name", MODULES)
def test_options_are_documented_as_they_are(name: str) -> None:
    assert taken(documentation(name)["options"]) == taken(arguments(name))


@pytest.mark.parametrize("name", document_modules.WRITTEN)
def test_the_table_is_documented(name: str) -> None:
    found = documentation(name)
    assert document_modules.documented(name, found) == found, "run tests/document_modules.py"


@pytest.mark.parametrize("name", MODULES)
def test_examples_and_returns_are_yaml(name: str, legacy: None) -> None:
    module = importlib.import_module(f"ansible.legacy.{name}")
    examples = yaml.safe_load(module.EXAMPLES)
    assert {key for task in examples for key in task if "sandlot." in key}
    assert all(entry["description"] for entry in yaml.safe_load(module.RETURN).values())
    for task in examples:
        for key in (key for key in task if "sandlot." in key):
            # Only Ansible knows what a variable holds.
            if "{{" not in json.dumps(task[key]):
                check_options(key.rpartition(".")[2], task[key] or {})


def check_options(module: str, options: dict[str, Any]) -> None:
    """The engine takes what an example says."""
    if module == "sandbox":
        spec.normalise(options)
        return
    if module == "sandbox_run":
        own = {key: options[key] for key in options if key in job_options.NAMES}
        spec.normalise({**own, "name": "job", "image": options["image"], "command": ["true"]})
        return
    if module == "sandbox_volume":
        volumes.normalise_one(options)
        return
    volumes.normalise(options.get("volumes") or [])
    spec.normalise_all(options.get("sandboxes") or [], defaults=options.get("defaults") or {})
    images.normalise_all(options.get("images") or [])
    if options.get("state") != "absent":
        network.normalise(Site(), options.get("networks") or [])


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_a_thin_shell(name: str) -> None:
    source = (TOP / "library" / f"{name}.py").read_text()
    code = source[source.rindex('"""') :].splitlines()
    assert len(code) <= 16


def test_every_file_of_the_engine_is_sent() -> None:
    engine = TOP / "module_utils" / "sandlot"
    on_disk = {f"sandlot/{path.relative_to(engine)}": path for path in engine.rglob("*.py")}
    found = payload.sources()
    assert found.keys() == on_disk.keys()
    assert all(found[name] == path.read_bytes() for name, path in on_disk.items())


def test_a_runtime_that_cannot_be_compiled_has_one_reason(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("1 +")
    with pytest.raises(HostError, match="SyntaxError") as caught:
        payload._compile(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1 and caught.value.hint


def test_no_file_reads_its_package_while_it_is_imported() -> None:
    """Before Python 3.10 it is None in a zip, until the import has ended."""
    engine = TOP / "module_utils/sandlot"
    for path in [*engine.rglob("*.py"), *(TOP / "library").glob("*.py")]:
        tree = ast.parse(path.read_text())
        inside = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        waiting: list[ast.AST] = [tree]
        while waiting:
            node = waiting.pop()
            if not isinstance(node, inside):
                waiting += ast.iter_child_nodes(node)
            assert not (isinstance(node, ast.Name) and node.id == "__package__"), path


@pytest.mark.parametrize("name", MODULES)
def test_attributes_are_documented(name: str) -> None:
    attributes = documentation(name)["attributes"]
    assert sorted(attributes) == [
        *("action_group", "async", "check_mode", "diff_mode", "idempotent", "platform"),
    ]
    assert attributes["action_group"]["membership"] == ["sandlot.sandlot.sandbox"]
    assert attributes["platform"] == {"platforms": "linux"}
    for attribute in ("async", "check_mode", "idempotent"):
        # Half a promise says which half.
        row = attributes[attribute]
        assert (row["support"] == "partial") == bool(row.get("details"))
