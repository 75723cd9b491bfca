# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Loads the files of a project: extends, several files, include, .env files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..dotenv import EnvFileError, parse_raw
from ..dotenv import parse as parse_dotenv
from .interpolation import Variables
from .merge import merged, settled
from .nodes import ComposeError, Node, Source, parse
from .values import known, mapping, one_or_more, text

Show = Callable[[str], None]
NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
OVERRIDES = {
    name: [f"{name.rpartition('.')[0]}.override.{ending}" for ending in ("yaml", "yml")]
    for name in NAMES
}
SECTIONS = ("services", "networks", "volumes", "configs", "secrets")
MAX_SIZE = 4 << 20
_EXTENDS = ("service", "file")
_INCLUDE = ("path", "env_file", "project_directory")


def of_directory(directory: Path) -> list[Path]:
    """The files that ``docker compose`` reads in a directory."""
    for name in NAMES:
        if (directory / name).is_file():
            others = [directory / other for other in OVERRIDES[name]]
            return [directory / name, *[path for path in others if path.is_file()][:1]]
    raise ComposeError(f"{directory}: has none of {', '.join(NAMES)}; name the Compose file")


def read_file(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ComposeError(f"{path}: is larger than 4 MiB, too large for {what}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ComposeError(f"{path}: can't be read as {what}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ComposeError(f"{path}: is not UTF-8 text, so not {what}") from error


def read_env(
    path: Path, outside: Mapping[str, str], show: Show, *, raw: bool = False
) -> dict[str, str]:
    """The variables of an env file; those of ``outside`` take the place of names alone.

    In a ``raw`` one, quotes and dollar signs have no meaning.
    """

    def warn(node: Node, dummy: str) -> None:
        # The name may be a part of a password.
        problem = "a dollar sign leads to a variable that is not set: it is empty"
        show(f"{node.place}: {problem}; for a dollar sign, write $$ or put single quotes around")

    def expand(value: str, line: int, known: Mapping[str, str]) -> str:
        at = Node(value, Source(path, path.parent), line, raw="the value", outside=True)
        filled = Variables({**known, **outside}).filled(at, warn)
        return str(filled.value)

    try:
        content = read_file(path, "an env file")
        entries = parse_raw(content) if raw else parse_dotenv(content, expand)
    except EnvFileError as error:
        raise ComposeError(f"{path}:{error.line}: {error.problem}; {error.hint}") from error
    given: dict[str, str] = {}
    for entry in entries:
        value = outside.get(entry.name) if entry.value is None else entry.value
        if value is not None:
            given[entry.name] = value
    return given


@dataclass
class Loader:
    """Reads files once; ``show`` gets warnings, as lines with a place."""

    variables: Mapping[str, str]
    show: Show
    _read: dict[tuple[Path, Path], list[Node]] = field(default_factory=dict)

    def warn(self, node: Node, problem: str) -> None:
        self.show(f"{node.place}: {problem}")

    def project(self, files: Sequence[Path], base: Path, including: Sequence[Path] = ()) -> Node:
        """The merged files, with what they include."""
        whole: Node | None = None
        for path in files:
            for document in self._documents(path, base):
                extended = self._extended(document)
                whole = extended if whole is None else merged(whole, extended)
        if whole is None:
            raise ComposeError(f"{files[0]}: is empty; a Compose file has services")
        return self._with_includes(settled(whole), [*including, *files])

    def _documents(self, path: Path, base: Path) -> list[Node]:
        if (path, base) not in self._read:
            raw = parse(read_file(path, "a Compose file"), Source(path, base))
            nodes = [node for node in raw if node.value is not None]
            self._read[path, base] = [self._filled(node) for node in nodes]
        return self._read[path, base]

    def _filled(self, node: Node) -> Node:
        """The document with variables put in, but not into extensions."""
        variables = Variables(self.variables)
        value = {
            key: item if key.startswith("x-") else variables.filled(item, self.warn)
            for key, item in mapping(node).items()
        }
        return replace(node, value=value)

    # -- extends

    def _extended(self, document: Node) -> Node:
        services = document.get("services")
        if services is None:
            return document
        value = {
            name: self._service(name, service, services, ())
            for name, service in mapping(services).items()
        }
        return replace(
            document, value={**document.value, "services": replace(services, value=value)}
        )

    def _service(
        self, name: str, service: Node, services: Node, above: tuple[tuple[Path, str], ...]
    ) -> Node:
        if service.value is None or "extends" not in mapping(service):
            return service
        given = service.value["extends"]
        here = (service.source.path, name)
        if here in above:
            names = [word for dummy, word in (*above[above.index(here) :], here)]
            hint = "take one of them out"
            raise given.failure(f"extends closes a cycle: {' -> '.join(names)}", hint)
        wanted, others = self._base(given, services)
        if wanted not in mapping(others):
            hint = f"it has {', '.join(others.value) or 'none'}"
            raise given.failure(f"no service {wanted!r} in {others.source.path}", hint)
        base = self._service(wanted, others.value[wanted], others, (*above, here))
        own = {key: item for key, item in service.value.items() if key != "extends"}
        if base.value is None:
            return replace(service, value=own)
        return merged(base, replace(service, value=own), ("services", name))

    def _base(self, given: Node, services: Node) -> tuple[str, Node]:
        """The name of the service that is extended, and the services of its file."""
        if not isinstance(given.value, dict):
            return text(given), services
        fields = known(given, _EXTENDS, "extends")
        if "service" not in fields:
            raise given.failure("extends names no service", "give it `service: NAME`")
        name = text(fields["service"])
        if "file" not in fields:
            return name, services
        path = given.source.base / text(fields["file"])
        if path == given.source.path:
            return name, services
        for document in self._documents(_existing(fields["file"], path), path.parent):
            if document.get("services") is not None:
                return name, document.value["services"]
        raise fields["file"].failure(f"{path} has no services", "name another file")

    # -- include

    def _with_includes(self, whole: Node, files: Sequence[Path]) -> Node:
        include = whole.value.get("include")
        if include is None or include.value is None:
            return whole
        value = {key: item for key, item in whole.value.items() if key != "include"}
        for entry in one_or_more(include):
            for section, node in self._included(entry, files).value.items():
                if section in SECTIONS and node.value is not None:
                    value[section] = _united(value.get(section), node)
        return replace(whole, value=value)

    def _included(self, entry: Node, files: Sequence[Path]) -> Node:
        fields = {"path": entry}
        if isinstance(entry.value, dict):
            fields = known(entry, _INCLUDE, "include")
        if "path" not in fields:
            raise entry.failure("include names no file", "give it `path: FILE`")
        base, own = entry.source.base, one_or_more(fields["path"])
        paths = [_existing(node, base / text(node)) for node in own]
        if not paths:
            raise entry.failure("include names no file", "give it `path: FILE`")
        for path in paths:
            if path.resolve() in [other.resolve() for other in files]:
                names = " -> ".join(str(other) for other in (*files, path))
                raise entry.failure(f"include closes a cycle: {names}", "take one of them out")
        directory = paths[0].parent
        if "project_directory" in fields:
            directory = base / text(fields["project_directory"])
        env_files = [path for path in [directory / ".env"] if path.is_file()]
        if "env_file" in fields:
            env_files = [base / text(node) for node in one_or_more(fields["env_file"])]
        variables = environment(env_files, self.variables, self.show)
        inner = Loader({**variables, **self.variables}, self.show)
        return inner.project(paths, directory, files)


def environment(files: Iterable[Path], outside: Mapping[str, str], show: Show) -> dict[str, str]:
    """The variables of env files; ``outside`` wins over them."""
    values: dict[str, str] = {}
    for path in files:
        values.update(read_env(path, {**values, **outside}, show))
    return {**values, **outside}


def _existing(node: Node, path: Path) -> Path:
    clean = Path(os.path.normpath(path))
    if "://" in str(node.value) or str(node.value).startswith(("git@", "oci:")):
        raise node.error("is not a file of the controller", "fetch it before, and name the copy")
    if not clean.is_file():
        raise node.failure(f"{clean} is not a file", "name an existing one")
    return clean


def _united(section: Node | None, more: Node) -> Node:
    if section is None or section.value is None:
        return more
    for name in more.value:
        if name in section.value and section.value[name].value != more.value[name].value:
            other, here = section.value[name].place, more.value[name]
            hint = "rename one of them, or take it out of one file"
            raise here.failure(f"is defined again, differently from {other}", hint)
    return replace(section, value={**more.value, **section.value})
