# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Run a command in sandboxes."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence

from .. import shell
from ..errors import SpecError
from ..reach import each
from ..reach.each import Outcome, Task
from ..reach.errors import FAILED, Missing, NotStarted, Stopped
from ..site import Site
from ..spec import argspec, names, quantities, text
from ..spec.options import BY_NAME
from . import command_output

ARGUMENTS = {
    "name": {"type": "str"},
    "names": {"type": "list", "elements": "str"},
    "labels": {"type": "dict"},
    "argv": {"type": "list", "elements": "str"},
    "command": {"type": "str", "aliases": ["cmd"]},
    "stdin": {"type": "str"},
    "stdin_add_newline": {"type": "bool", "default": True},
    **argspec.arguments([BY_NAME["env"]]),
    "user": {"type": "str"},
    "chdir": {"type": "str"},
    "creates": {"type": "str"},
    "removes": {"type": "str"},
    "timeout": {"type": "float"},
    "output_limit": {"type": "str"},
    "detach": {"type": "bool", "default": False},
    "strip_empty_ends": {"type": "bool", "default": True},
    "forks": {"type": "int", "default": 10},
}
# Without a limit that is given: of all sandboxes together, and of each at least.
_OUTPUT, _LEAST = 10 << 20, 64 << 10
_SELECTORS = ("name", "names", "labels")


def action(module: shell.Module, site: Site) -> shell.Json:
    params = module.params
    _check(params)
    sandboxes = _chosen(site, params)
    task = _task(params, len(sandboxes), check=module.check_mode)
    outcomes = each.run(site, sandboxes, task, int(params["forks"]))
    results = [_result(outcome, task, strip=params["strip_empty_ends"]) for outcome in outcomes]
    if params["name"] is not None:
        return command_output.finish(
            module, results[0], results[0]["msg"] if results[0]["rc"] else ""
        )
    if not sandboxes:
        if params["labels"] is not None:
            module.warn(f"no sandbox has the labels {_shown(params['labels'])}")
        return {"changed": False, "results": []}
    whole = _together(results)
    return command_output.finish(module, whole, whole["msg"])


def _check(params: Mapping[str, Any]) -> None:
    given = [option for option in _SELECTORS if params[option] is not None]
    if len(given) != 1:
        others = " and ".join(given[1:] or _SELECTORS[1:])
        problem = f"can't be combined with {others}" if given else f"is not given, nor are {others}"
        raise SpecError(
            given[0] if given else "name",
            params[given[0]] if given else None,
            problem,
            hint="give one of name, names and labels",
        )
    if params["labels"] is not None and not params["labels"]:
        hint = "give at least one label, or names: those of sandbox_info for all"
        raise SpecError("labels", params["labels"], "is empty", hint=hint)
    if (params["argv"] is None) == (params["command"] is None):
        hint = "give one of argv and command"
        problem = "is not given" if params["argv"] is None else "can't be combined with command"
        raise SpecError("argv", params["argv"], problem, hint=hint)
    if params["forks"] < 1:
        raise SpecError("forks", params["forks"], "is below 1", hint="use 10, for instance")
    for option in ("stdin", "timeout", "output_limit") if params["detach"] else ():
        if params[option] is not None:
            hint = "leave one of them out: nobody waits for a detached command"
            raise SpecError(option, params[option], "can't be combined with detach", hint=hint)


def _chosen(site: Site, params: Mapping[str, Any]) -> List[str]:
    if params["name"] is not None:
        return [params["name"]]
    if params["names"] is not None:
        return list(dict.fromkeys(params["names"]))
    pairs = names.pairs("labels", params["labels"], key=names.label_name, item=text.text)
    return each.labelled(site, dict(pairs))


def _task(params: Mapping[str, Any], count: int, *, check: bool) -> Task:
    option = "argv" if params["argv"] is not None else "command"
    argv = names.command(option, params[option])
    if not argv:
        raise SpecError(option, params[option], "is empty", hint="name a program")
    return Task(
        argv=argv,
        stdin=_stdin(params),
        env=dict(names.environment("env", params["env"] or {})),
        user=params["user"],
        cwd=params["chdir"] or "",
        creates=_path(params, "creates"),
        removes=_path(params, "removes"),
        timeout=_timeout(params["timeout"]),
        output_limit=_output_limit(params, count),
        detach=params["detach"],
        check=check,
    )


def _output_limit(params: Mapping[str, Any], count: int) -> Optional[int]:
    """Bytes that each of ``count`` commands may write; what a detached one writes is discarded."""
    if params["output_limit"] is not None:
        return quantities.size("output_limit", params["output_limit"])
    return None if params["detach"] else max(_LEAST, _OUTPUT // max(1, count))


def _stdin(params: Mapping[str, Any]) -> Optional[bytes]:
    if params["stdin"] is None:
        return None
    end = "\n" if params["stdin_add_newline"] else ""
    data: bytes = f"{params['stdin']}{end}".encode("utf-8", "surrogateescape")
    return data


def _path(params: Mapping[str, Any], option: str) -> str:
    value = params[option]
    return "" if value is None else names.absolute_path(option, value)


def _timeout(value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    return quantities.number("timeout", value, minimum=0.001, maximum=2_000_000, digits=3)


def _result(outcome: Outcome, task: Task, *, strip: bool) -> shell.Json:
    """The result for one sandbox, with the keys of ansible.builtin.command."""
    result: shell.Json = {
        "name": outcome.sandbox,
        "cmd": list(task.argv),
        "changed": True,
        "rc": outcome.code,
        "msg": "",
        **command_output.texts(outcome.stdout, outcome.stderr, strip=strip),
        **command_output.times(outcome.times),
    }
    if outcome.failure:
        kind = getattr(outcome.failure, "kind", FAILED)
        begun = kind not in (Missing.kind, Stopped.kind, NotStarted.kind)
        result.update(changed=begun, kind=kind, msg=str(outcome.failure))
    elif outcome.skipped:
        verb = "Would" if task.check else "Did"
        line = f"skipped, since {outcome.skipped}"
        result.update(changed=False, stdout=line, stdout_lines=[line])
        result["msg"] = f"{verb} not run command since {outcome.skipped}"
    elif task.check:
        decided = bool(task.creates or task.removes)
        result.update(changed=decided, msg=command_output.NOT_RUN)
        result.update({} if decided else {"skipped": True})
    elif outcome.code:
        result["msg"] = "non-zero return code"
    return result


def _together(results: Sequence[shell.Json]) -> shell.Json:
    """The result for several: Ansible shows the results of each, as it does for a loop."""
    failed = [result for result in results if result["rc"]]
    for result in results:
        result["failed"] = bool(result["rc"])
    whole: shell.Json = {
        "changed": any(result["changed"] for result in results),
        "results": list(results),
        "rc": next((result["rc"] for result in failed), 0),
        "msg": "; ".join(f"{result['name']}: {result['msg']}" for result in failed),
    }
    if all(result.get("skipped") for result in results):
        whole["skipped"] = True
    return whole


def _shown(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())
