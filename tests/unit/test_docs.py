# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Documentation that can be followed: links lead somewhere, and each example is tried.

The word after the three backticks says how: "sh" and "console" are commands that exist and run on
the demo, "sh example" those that need what its reader has or end a sandbox, "yaml" is an inventory
that tests/integration/test_doc_examples.py deploys, "yaml tasks" are tasks, "yaml fragment" is a
part of an inventory that needs what its reader has, "json" is compared with what the engine writes,
"text" is output. In the tutorial, "sh tutorial", "text seen" and those that end with "file" are
commands, output and files of its reader: tests/newcomer/test_tutorial.py does all that they say.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "tests/README.md",
    ]
)
KINDS = {"sh", "sh example", "console", "yaml", "yaml tasks", "yaml fragment", "json", "text"}
KINDS |= {"sh tutorial", "text seen"}
KINDS |= {
    f"{language} file" for language in ("ini", "nginx", "python", "sh", "sql", "text", "yaml")
}
# Of the system; "#" is the root prompt.
OTHERS = {".", "apt", "curl", "ip", "journalctl", "man", "molecule", "nft"}
OTHERS |= {"rc-service", "service"}


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{_name(self.page)}:{self.line}"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = list(_blocks())


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_example_says_what_it_is(block: Block) -> None:
    assert block.kind in KINDS


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_examples_are_fenced(page: Path) -> None:
    """Indented ones would escape these tests; the lines below a list item are two deep."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert re.findall(r"^ {4}.*", prose, re.MULTILINE) == []


# -- links and names


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file.resolve())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\b((?:tests|playbooks|docs|bench)/[\w/.-]+\.(?:py|yml|md|txt))\b", text)
    assert [name for name in named if not list(ROOT.glob(name.replace("NAME", "*")))] == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^):\s]+)\)", page.read_text(encoding="utf-8"))
        if not link.startswith("#")
    }
    pages = set((ROOT / "docs").glob("*.md"))
    assert sorted(map(_name, pages - linked)) == []


def _named_tests() -> Iterator[tuple[str, str]]:
    """(file, test) of each name in the index; one without a file continues the one before."""
    file = ""
    for name in re.findall(
        r"`([\w/]*(?:\.py)?(?:::\w+)*)`", (ROOT / "tests/README.md").read_text()
    ):
        path, *parts = name.split("::")
        file = path if path.endswith(".py") else file
        for part in parts if path.endswith(".py") or not path else ():
            yield file, part


def test_named_tests_exist() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = list(_named_tests())
    assert len(named) > 200
    assert [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"(def|class) {name}\b", files.get(Path(file).name, ""))
    ] == []


ENGINE = ROOT / "module_utils/sandlot"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_code_exists(page: Path) -> None:
    """Paths in backticks are those of the tree or of the engine; NAME stands for any name."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`([\w-]+/[\w./-]*\.(?:py|txt|svg))`", text)
    assert [
        name
        for name in named
        if not any(list(top.glob(name.replace("NAME", "*"))) for top in (ROOT, ENGINE))
    ] == []


# -- commands


def _commands() -> Iterator[tuple[Block, list[str]]]:
    for block in of_kind("sh", "sh example", "console"):
        for line in block.text.splitlines():
            if block.kind == "console":
                if not line.startswith("# "):
                    continue
                line = re.split(r"  +", line[2:])[0]
            words = shlex.split(line, comments=True)
            if words:
                yield block, words[1:] if words[0] == "sudo" else words


def _problem(words: list[str]) -> str:
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if words[1] in targets else "no target"
    if words[0] == "sandlot":
        return _cli_problem(words[1:])
    if words[0] in ("ansible-playbook", ".venv/bin/python", ".venv/bin/pytest"):
        files = [w for w in words if re.search(r"\.(py|yml)$", w) and w != "inventory/hosts.yml"]
        return " ".join(name for name in files if not (ROOT / name).is_file())
    return "" if words[0] in OTHERS else "unknown command"


def _cli_problem(words: list[str]) -> str:
    from sandlot.cli.main import parse

    try:
        parse(words)
    except SystemExit:
        return "not understood"
    return ""


@pytest.mark.parametrize(("block", "words"), list(_commands()), ids=str)
def test_commands_exist(block: Block, words: list[str]) -> None:
    assert _problem(words) == ""


# -- YAML


def _check_variables(variables: dict[str, Any]) -> None:
    """The lists of an inventory, as the modules would take them."""
    from sandlot import images, network, spec
    from sandlot.site import Site

    known = {
        name
        for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
        for name in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
    }
    ours = {name for name in variables if not name.startswith("ansible_")}
    assert ours <= known | {"sandbox_recreate"}
    defaults = variables.get("sandbox_defaults", {"image": "busybox"})
    listed = [_brought(instance) for instance in variables.get("sandbox_instances", [])]
    names = [spec.normalise(instance, defaults=defaults).name for instance in listed]
    assert len(set(names)) == len(names)
    images.normalise_all(variables.get("sandbox_images", []))
    network.normalise(Site(), variables.get("sandbox_networks", []))


def _brought(instance: dict[str, Any]) -> dict[str, Any]:
    """The options as a module gets them, after the plugin has read files of the controller."""
    instance = {key: value for key, value in instance.items() if key != "env_file"}
    for option, content in (("files", "content"), ("secrets", "value")):
        for entry in instance.get(option, ()):
            for name in {"src", "template_src"} & entry.keys():
                entry[content] = entry.pop(name)
    return instance


def variables(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text)
    found: dict[str, Any] = data.get("sandbox_hosts", {}).get("vars", data)
    return found


INVENTORIES = {
    **{str(block): block.text for block in of_kind("yaml")},
    **{_name(path): path.read_text() for path in sorted((ROOT / "inventory").glob("*/*_vars/*"))},
}


@pytest.mark.parametrize("source", INVENTORIES)
def test_inventories_are_valid(source: str) -> None:
    _check_variables(variables(INVENTORIES[source]))


@pytest.mark.parametrize("block", of_kind("yaml tasks"), ids=str)
def test_tasks_are_valid(block: Block) -> None:
    from sandlot import spec

    for task in yaml.safe_load(block.text):
        (module,) = set(task) - {"name"}
        assert (ROOT / "library" / f"{module.rpartition('.')[2]}.py").is_file()
        if module.endswith(".sandbox"):
            spec.normalise(task[module])


@pytest.mark.parametrize("block", of_kind("yaml fragment"), ids=str)
def test_fragments_are_valid_as_far_as_they_go(block: Block) -> None:
    _check_variables(yaml.safe_load(block.text))


@pytest.mark.parametrize("block", of_kind("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


def test_every_page_names_one_kernel() -> None:
    """The one below which `sandlot doctor` tells of a failure."""
    from sandlot.host import doctor

    pages = [*PAGES, *(ROOT / "library").glob("*.py"), *(ROOT / "roles").glob("*/README.md")]
    found = {
        (path.name, version)
        for path in pages
        for version in re.findall(r"Linux (\d+\.\d+)", path.read_text())
    }
    assert {"README.md", "sandbox.py", "sandboxes.py"} <= {name for name, _ in found}
    minimum = ".".join(map(str, doctor.MINIMUM_KERNEL))
    assert {version for _, version in found} == {minimum}, found


# -- README


def test_readme_inventory_is_short() -> None:
    first = next(block for block in of_kind("yaml") if block.page.name == "README.md")
    assert len(first.text.splitlines()) <= 22


def test_readme_names_every_variable() -> None:
    readme = (ROOT / "README.md").read_text()
    specs = [
        yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
        for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
    ]
    names = {name for options in specs for name in options} - {"sandbox_only", "sandbox_recreate"}
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []


def test_pages_have_the_figures_of_the_last_bench() -> None:
    command = [sys.executable, str(ROOT / "bench/run.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
