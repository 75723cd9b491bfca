# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the modules document is what they take, and the engine's own files are found."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest
import yaml
from sandlot.host import payload

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))

import document_modules  # noqa: E402

MODULES = [
    *("sandbox", "sandboxes", "sandbox_info", "sandbox_host", "sandbox_rootfs"),
    "sandbox_network",
]
TYPING = ("type", "elements", "choices", "required", "default", "aliases")


@pytest.fixture(scope="module")
def legacy() -> Iterator[None]:
    """The names under which Ansible runs library/ and module_utils/ on a target."""
    package = ModuleType("ansible.legacy")
    package.__path__ = [str(TOP / "library")]
    sys.modules["ansible.legacy"] = package
    ansible.module_utils.__path__.append(str(TOP / "module_utils"))
    yield
    ansible.module_utils.__path__.remove(str(TOP / "module_utils"))
    for name in [name for name in sys.modules if name.startswith("ansible.legacy")]:
        del sys.modules[name]


def documentation(name: str) -> dict[str, Any]:
    return document_modules.documentation(TOP / "library" / f"{name}.py")


def arguments(name: str) -> dict[str, Any]:
    module = importlib.import_module(f"ansible.legacy.{name}")
    found: dict[str, Any] = getattr(module, "ARGUMENTS", None) or module.argument_spec()
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
def test_options_are_documented_as_they_are(name: str, legacy: None) -> None:
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


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_a_thin_shell(name: str) -> None:
    source = (TOP / "library" / f"{name}.py").read_text()
    code = source[source.rindex('"""') :].splitlines()
    assert len(code) <= 60


def test_every_file_of_the_engine_is_in_the_payload() -> None:
    engine = TOP / "module_utils" / "sandlot"
    on_disk = {f"sandlot/{path.relative_to(engine)}": path for path in engine.rglob("*.py")}
    found = payload.sources()
    assert found.keys() == on_disk.keys()
    assert all(found[name] == path.read_bytes() for name, path in on_disk.items())


def test_the_payload_is_read_from_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a module that Ansible sent: names differ, files don't."""
    import zipfile

    archive = tmp_path / "module.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in payload.sources().items():
            packed.writestr(name.replace("sandlot/", "zipped_engine/", 1), content)
    monkeypatch.syspath_prepend(str(archive))
    zipped = importlib.import_module("zipped_engine.host.payload")
    assert zipped.sources() == payload.sources()
