# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Calls of modules in this process, and whether a check of one touches the host."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import fingerprint
from converge_fixtures import Deployment, tree
from sandlot.converge import kept

Json = dict[str, Any]
# Of inits, after a healthcheck, and of the kernel, which writes a journal.
BY_OTHERS = re.compile(r"/(status|layer\.img|volume\.img) ")
# The id of a layer that a run sets aside is the time of the run.
TIME = re.compile(r"\b20\d{6}T\d{6}Z\b")


class Look:
    """All that a run may change: the files below the root, and the host's fingerprint."""

    def __init__(self, host: Deployment) -> None:
        self._host = host
        self._files, self._before = self._tree(), fingerprint.fingerprint(host.paths.root)

    def _tree(self) -> set[str]:
        # Without var/lib/lxcfs, where lxcfs shows the processes of the machine.
        tops = [
            f"{self._host.paths.root}/{top}" for top in ("etc", "run", "usr", "var/lib/sandlot")
        ]
        return {line for top in tops for line in tree(top) if not BY_OTHERS.search(line)}

    def files(self) -> list[str]:
        """The files that differ now."""
        return sorted(self._files ^ self._tree())

    def touched(self) -> list[str]:
        """All that differs now, but for what an earlier run leaves to the launcher and the kernel.

        What the launcher forked may end late, and a bridge loses its carrier late.
        """
        found = fingerprint.changes_since(self._before, self._host.paths.root)
        plain = [line.replace(",NO-CARRIER", "") for line in found]
        other = {"+": "-", "-": "+"}
        lines = [line for line in plain if other[line[0]] + line[1:] not in plain]
        late = [x for x in lines if x.startswith("- processes:") and "launcher.zygote" in x]
        return [*self.files(), *(line for line in lines if line not in late)]


class _Ended(Exception):
    """A module has ended itself."""

    def __init__(self, result: Json) -> None:
        super().__init__(result)
        self.result = result


@dataclass
class Module:
    """In the place of AnsibleModule."""

    params: Json
    check_mode: bool
    _diff: bool = True

    def exit_json(self, **result: Any) -> NoReturn:
        raise _Ended(result)

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        raise _Ended({"failed": True, "msg": msg, **result})

    def warn(self, warning: str) -> None:
        pass


def options(module: str) -> Json:
    arguments: Json = importlib.import_module(f"sandlot.modules.{module}").ARGUMENTS
    return arguments


def call(host: Deployment, module: str, given: Json, *, check: bool = False) -> Json:
    """The result of a module with these options."""
    defaults = {option: row.get("default") for option, row in options(module).items()}
    assert set(given) <= set(defaults)
    action = importlib.import_module(f"sandlot.modules.{module}").action
    try:
        result: Json = action(Module({**defaults, **given}, check), host.paths)
    except _Ended as ended:
        result = ended.result
    return result


def foreseen(host: Deployment, module: str, given: Json, *, again: bool = False) -> Json:
    """The result of a run that does what its check says, and of which nothing is left to do.

    With ``again``, the same is done by each run.
    """
    before = Look(host)
    checked = call(host, module, given, check=True)
    touched = before.touched()
    assert not touched, touched
    done = call(host, module, given)
    assert not done.get("failed"), done
    for part in ("changed", "actions", "diff", "networks", "ranges", "relaxed"):
        texts = [TIME.sub(kept.COMING, json.dumps(side.get(part))) for side in (checked, done)]
        assert texts[0] == texts[1], (part, *texts)
    assert done["changed"] == bool(done["actions"])
    if not again:
        after = call(host, module, given, check=True)
        assert (after["changed"], after["actions"]) == (False, [])
    return done
