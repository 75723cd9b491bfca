# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Puts files of the controller in the place of ``src``, ``template_src`` and ``env_file``.

Values may be secrets: no message and no file has them.
"""

from __future__ import annotations

import base64
import os
import stat
from typing import Any, Mapping, Protocol

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleUndefinedVariable
from ansible.parsing.vault import is_encrypted
from ansible.template import generate_ansible_template_vars

from . import older
from .dotenv import EnvFileError, parse

Json = dict[str, Any]

# Options with files of the controller: the option for the content, and its limit in bytes.
FILLED = {"files": ("content", 1048576), "secrets": ("value", 512000)}
ENV_FILE_LIMIT = 1048576
# A file takes four times its size when it is encrypted.
_VAULT_FACTOR = 5


class Action(Protocol):
    """The part of an action plugin that finds, reads and renders files."""

    _loader: Any
    _templar: Any

    def _find_needle(self, dirname: str, needle: str) -> str:
        """The path of a file of the role or the playbook."""


def filled(arguments: Json, action: Action, task_vars: Json) -> Json:
    """The arguments of ``sandboxes`` or ``sandbox`` with the content of their files.

    Malformed entries stay as they are: the module refuses them by name.
    """
    controller = Controller(action, task_vars)
    shared = arguments.get("defaults")
    defaults = shared if isinstance(shared, Mapping) else {}
    own = arguments.get("sandboxes")
    rest = {key: value for key, value in arguments.items() if key not in ("defaults", "sandboxes")}
    result = _filled("", rest, {}, controller)
    if defaults:
        # Each sandbox gets the variables of these files, as an env of its own.
        dropped = "" if _paths(defaults, {}) is None else "env_file"
        kept = {key: value for key, value in defaults.items() if key != dropped}
        result["defaults"] = _filled("defaults.", kept, {}, controller)
    elif "defaults" in arguments:
        result["defaults"] = shared
    if isinstance(own, list):
        result["sandboxes"] = [
            _filled(_title(index, item), item, defaults, controller)
            if isinstance(item, Mapping)
            else item
            for index, item in enumerate(own)
        ]
    elif "sandboxes" in arguments:
        result["sandboxes"] = own
    return result


def _title(index: int, item: Mapping[str, Any]) -> str:
    name = item.get("name")
    return f"sandbox {str(name)!r}: " if isinstance(name, str) else f"sandboxes[{index}]."


def _filled(
    title: str, given: Mapping[str, Any], defaults: Mapping[str, Any], controller: Controller
) -> Json:
    result = dict(given)
    is_absent = given.get("state") == "absent"
    for option, (content, limit) in FILLED.items():
        if isinstance(given.get(option), list):
            items = enumerate(given[option])
            result[option] = [
                controller.item(f"{title}{option}[{index}]", item, content, limit)
                for index, item in items
                if not (is_absent and _source(item, content))
            ]
    paths = _paths(given, defaults)
    env = _chosen(given, defaults, "env")
    if paths is not None:
        result.pop("env_file", None)
    if paths and not is_absent and (env is None or isinstance(env, Mapping)):
        result["env"] = {**controller.variables(title, paths), **(env or {})}
    return result


def _chosen(given: Mapping[str, Any], defaults: Mapping[str, Any], option: str) -> Any:
    return defaults.get(option) if given.get(option) is None else given[option]


def _paths(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str] | None:
    """The env files; None for a value that is no list of paths."""
    value = _chosen(given, defaults, "env_file")
    paths = [value] if isinstance(value, str) else [] if value is None else value
    right = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    return paths if right else None


def _source(item: object, content: str) -> str:
    """The one option that names a file of the controller, "" where there is none, or another."""
    if not isinstance(item, Mapping):
        return ""
    given = [name for name in (content, "src", "template_src") if item.get(name) is not None]
    is_path = len(given) == 1 and given != [content] and isinstance(item[given[0]], str)
    return given[0] if is_path else ""


class Controller:
    """Files of the controller, each one read once."""

    def __init__(self, action: Action, task_vars: Json) -> None:
        self._action = action
        self._task_vars = task_vars
        self._known: dict[str, bytes] = {}

    def item(self, where: str, item: Any, content: str, limit: int) -> Any:
        """A file or secret with its content."""
        option = _source(item, content)
        if not option:
            return item
        rest = {key: value for key, value in item.items() if key != option}
        where = f"{where}.{option}"
        if item.get("encoding") is not None:
            hint = f"it is for {content}; leave it out"
            raise AnsibleActionFail(f"{where}: encoding has no effect here; {hint}")
        if option == "src":
            path = self._path(where, "files", item["src"])
            data = base64.b64encode(self._read(where, path, limit))
            return {**rest, content: data.decode("ascii"), "encoding": "base64"}
        path = self._path(where, "templates", item["template_src"])
        self._text(where, path, limit)
        is_secret = content == "value"
        target = str(item.get("target") or "")
        text = self._rendered(where, str(item["template_src"]), path, target, secret=is_secret)
        _check_size(where, path, len(text.encode("utf-8", "surrogatepass")), limit)
        return {**rest, content: text}

    def variables(self, title: str, paths: list[str]) -> Json:
        """The variables of env files, marked secret; a later file wins."""
        variables: Json = {}
        for name in paths:
            where = f"{title}env_file"
            path = self._path(where, "files", name)
            try:
                entries = parse(self._text(where, path, ENV_FILE_LIMIT))
            except EnvFileError as error:
                raise AnsibleActionFail(f"{where}: {path} {error}") from None
            for entry in entries:
                if entry.value is None:
                    problem = f"{path} line {entry.line} has a name without a value"
                    raise AnsibleActionFail(f"{where}: {problem}; write {entry.name}=VALUE")
                variables[entry.name] = {"value": entry.value, "secret": True}
        return variables

    def _path(self, where: str, directory: str, name: str) -> str:
        try:
            return str(self._action._find_needle(directory, name))
        except AnsibleError as error:
            places = ", ".join(dict.fromkeys(map(str, getattr(error, "paths", None) or ())))
            searched = f"; searched: {places}" if places else ""
            problem = f"{str(name)!r} is not on the controller{searched}"
            hint = (
                f"put it into {directory}/ of the role or beside the playbook, or give its path, "
            )
            hint += "as with {{ inventory_dir }}/NAME"
            raise AnsibleActionFail(f"{where}: {problem}; {hint}") from None

    def _text(self, where: str, path: str, limit: int) -> str:
        try:
            return self._read(where, path, limit).decode()
        except UnicodeDecodeError:
            # The error itself has the bytes.
            hint = "save it as UTF-8; src of a file or secret takes any bytes"
            raise AnsibleActionFail(f"{where}: {path} is not UTF-8 text; {hint}") from None

    def _read(self, where: str, path: str, limit: int) -> bytes:
        """The bytes of a file, decrypted."""
        if path not in self._known:
            self._known[path] = self._load(where, path, limit)
        _check_size(where, path, len(self._known[path]), limit)
        return self._known[path]

    def _load(self, where: str, path: str, limit: int) -> bytes:
        try:
            state = os.stat(path)
            # Anything else may block, or have no end.
            if not stat.S_ISREG(state.st_mode):
                kind = "a directory" if stat.S_ISDIR(state.st_mode) else "no regular file"
                raise AnsibleActionFail(f"{where}: {path} is {kind}; name a file")
            with open(path, "rb") as handle:
                encrypted = is_encrypted(handle.read(64))
        except OSError as error:
            hint = f"make it readable for the user who runs Ansible: {error.strerror}"
            raise AnsibleActionFail(f"{where}: {path} can't be read; {hint}") from None
        _check_size(where, path, state.st_size, limit * (_VAULT_FACTOR if encrypted else 1))
        try:
            # Latin-1 has a character for each byte. The loader has the secrets of the vault; its
            # ways to bytes are private, or make a temporary file with the content.
            text = older.text_of(self._action._loader, path, "latin-1")
        except AnsibleError as error:
            hint = "give its vault password: --vault-id or --ask-vault-pass"
            reason = f"{path} can't be decrypted: {_first_line(error)}"
            raise AnsibleActionFail(f"{where}: {reason}; {hint}") from None
        return text.encode("latin-1")

    def _rendered(self, where: str, name: str, path: str, target: str, *, secret: bool) -> str:
        """The text of a template, as ansible.builtin.template renders it."""
        variables = dict(self._task_vars)
        own = generate_ansible_template_vars(name, path, target)
        if "ansible_managed" in variables:
            del own["ansible_managed"]
        variables.update(own)
        roots = [*variables.get("ansible_search_path", ()), self._action._loader.get_basedir()]
        roots.append(os.path.dirname(path))
        places = [place for root in roots for place in (os.path.join(root, "templates"), root)]
        templar = self._action._templar.copy_with_new_env(
            searchpath=places, available_variables=variables
        )
        source = older.trust_as_template(older.text_of(self._action._loader, path))
        try:
            text = templar.template(
                source,
                escape_backslashes=False,
                **older.AS_TEXT,
                overrides={"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"},
            )
        except AnsibleError as error:
            harmless = not secret or isinstance(error, AnsibleUndefinedVariable)
            # Filters name the values that they refuse.
            reason = _first_line(error) if harmless else type(error).__name__
            problem = f"{path} can't be rendered: {reason}"
            raise AnsibleActionFail(f"{where}: {problem}; correct the template") from None
        return "" if text is None else str(text)


def _check_size(where: str, path: str, size: int, limit: int) -> None:
    if size > limit:
        hint = f"{limit} are the limit; use a volume or a mount for more"
        raise AnsibleActionFail(f"{where}: {path} has {size} bytes; {hint}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
