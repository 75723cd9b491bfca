# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Plain English in pages, docstrings, messages and comments: CONTRIBUTING.md has the rules."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "module_utils/sandlot"
MARKDOWN = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
PLAYBOOKS = [
    path
    for folder in ("roles", "playbooks", "inventory", "molecule", "changelogs/fragments")
    for path in sorted((ROOT / folder).rglob("*.y*ml"))
]
PYTHON = [
    path
    for folder in ("module_utils", "library", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.is_symlink()
]

# Offences of packages whose text is still to be rewritten. Numbers only go down, except when code
# moves from one package to another.
ALLOWED: dict[str, int] = {}

RULES = {
    "a sentence that is a relative clause": re.compile(r"(What|Who|Whose|Whom)\b(?!.*\?$)", re.S),
    "a phrase to avoid": re.compile(
        r".*?\b(that (is|are) none|of before|[Aa]new|[Bb]esides)\b", re.S
    ),
    "a retired word": re.compile(
        r".*?\b(wish(es|ed)?|strays?|strayed|veil(s|ed)?|rehears\w+|takeover|hostview|ledger)\b",
        re.S | re.I,
    ),
}
SUBJECT = re.compile(r"(It|Its|Those|They|Them|Whatever|The same)\b")
# Docstrings that begin like this lack a verb or the noun that they are about.
FRAGMENT = re.compile(
    r"(Of|Once|Nothing|None|Told|Beside|Also|As|By|In|Until|When|After|Before|Only|Everything"
    r"|Anything|Not|From|For|Where|If|Given|Else|Because|So|To|There|All there is)\b"
)
RETIRED_NAMES = {"told", "said", "beside", "found", "there", "_untouched", "_fall", "_fallen"}
RETIRED_CLASSES = {"Wish", "Seen", "Made", "Traces", "Means", "Own"}
RETIRED_MODULES = {
    *("evidence", "hostview", "ledger", "lowers", "making", "perform", "rehearsal", "sharing"),
    *("stage", "strays", "takeover", "trial"),
}


class Offence(NamedTuple):
    package: str
    place: str
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: {self.text}"


def _sentences(text: str) -> Iterator[str]:
    for part in re.split(r"(?<=[.:;!?])\s+|\n\s*\n|\n\s*[-*]\s+", text):
        if part.strip():
            yield " ".join(part.split())


def _broken(text: str) -> Iterator[tuple[str, str]]:
    for sentence in _sentences(text):
        for rule, pattern in RULES.items():
            if pattern.match(sentence):
                yield rule, sentence


def _package(path: Path, root: Path) -> str:
    if ENGINE in path.parents:
        return path.relative_to(ENGINE).parts[0].removesuffix(".py")
    return path.relative_to(root).parts[0]


def _python_texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Docstrings (marked), other strings of several words, and comments, by line."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and ast.get_docstring(node) is not None
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value, id(node) in docstrings
    yield from _comments(source)


def _comments(source: str) -> Iterator[tuple[int, str, bool]]:
    """Comments of adjacent lines are one text."""
    first, last, words = 0, 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if words and line != last + 1:
                yield first, " ".join(words), False
                words = []
            first = first if words else line
            last = line
            words.append(token.string.lstrip("# "))
    if words:
        yield first, " ".join(words), False


def _offences_of(path: Path, root: Path = ROOT) -> Iterator[Offence]:
    name, package = path.relative_to(root), _package(path, root)
    for line, text, is_docstring in _python_texts(path):
        for rule, sentence in _broken(text):
            yield Offence(package, f"{name}:{line}", rule, sentence[:90])
        if is_docstring and SUBJECT.match(text):
            yield Offence(package, f"{name}:{line}", "a subject without a noun", text[:90])
        if is_docstring and FRAGMENT.match(text):
            yield Offence(package, f"{name}:{line}", "a fragment", text[:90])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if _defined(node) in RETIRED_NAMES:
            place = f"{name}:{getattr(node, 'lineno', 0)}"
            yield Offence(package, place, "a retired name", _defined(node))


def _defined(node: ast.AST) -> str:
    """The name that a node binds, "" for none."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else ""


def _prose(page: Path) -> str:
    """A page without its examples and markup; cells of tables are sentences."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|^#+ ", "", text, flags=re.M)
    return re.sub(r"\||\*\*|\[|^- ", "\n\n", text, flags=re.M)


@pytest.fixture(scope="module")
def offences() -> dict[str, list[Offence]]:
    by_package: dict[str, list[Offence]] = {}
    for path in PYTHON:
        for offence in _offences_of(path):
            by_package.setdefault(offence.package, []).append(offence)
    return by_package


@pytest.mark.parametrize("package", sorted({_package(path, ROOT) for path in PYTHON}))
def test_engine_and_plugins(package: str, offences: dict[str, list[Offence]]) -> None:
    mine = offences.get(package, [])
    assert len(mine) <= ALLOWED.get(package, 0), "\n".join(map(str, mine))


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    assert list(_broken(_prose(page))) == []


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_playbooks_and_fragments(path: Path) -> None:
    """Line by line: names of tasks, descriptions and comments."""
    lines = re.findall(r"^[\s#>-]*(?:\w+: )?(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [broken for line in lines for broken in _broken(line)] == []


def test_retired_names() -> None:
    modules = {path.stem for path in PYTHON if ENGINE in path.parents}
    classes = {
        node.name
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert (modules & RETIRED_MODULES, classes & RETIRED_CLASSES) == (set(), set())


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Ends inits whose state file was lost.", 0),
        ("What a run does?", 0),
        ("Inits that nobody knows. What is lost is made again.", 1),
        ("Has ports that are none.", 1),
        ("The wish of before, made anew.", 2),
    ],
)
def test_the_rules_catch_what_they_should(text: str, broken: int) -> None:
    assert len(list(_broken(text))) == broken


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ('def f():\n    """Start a sandbox once its image exists."""\n', []),
        ('def f():\n    """At most one operation for each file."""\n', []),
        ('def f():\n    """Without a launcher, a crashed sandbox stays down."""\n', []),
        ('def f():\n    """Of what is started, nothing is refused."""\n', ["a fragment"]),
        ('def f():\n    """Once no sandbox needs them."""\n', ["a fragment"]),
        ('def f():\n    """Nothing unless it is given."""\n', ["a fragment"]),
        ('class A:\n    """All there is to be of each kind."""\n', ["a fragment"]),
        ('def f():\n    """Those that are left."""\n', ["a subject without a noun"]),
        ("def f(told):\n    said = told\n", ["a retired name"] * 2),
        ("class A:\n    beside: bool\n", ["a retired name"]),
        ("def g():\n    beside_all = told\n", []),
    ],
)
def test_fragments_and_names(tmp_path: Path, source: str, rules: list[str]) -> None:
    module = tmp_path / "module.py"
    module.write_text(source, encoding="utf-8")
    assert [offence.rule for offence in _offences_of(module, tmp_path)] == rules


if __name__ == "__main__":
    print(Counter(offence.package for path in PYTHON for offence in _offences_of(path)))
    for path in PYTHON:
        for offence in _offences_of(path):
            print(offence)
