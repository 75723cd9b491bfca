# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Run a command in a sandbox of its own."""

from __future__ import annotations

from typing import Any, Mapping

from .. import shell
from ..errors import SpecError
from ..jobs import launch
from ..jobs.job import Job
from ..jobs.options import NAMES
from ..jobs.run import run
from ..reach.errors import NotStarted
from ..reach.streams import streams
from ..site import Site
from ..spec import argspec, names, quantities
from ..spec.options import BY_NAME
from . import command_output

OPTIONS = tuple(BY_NAME[name] for name in ("command", "env", *NAMES))
ARGUMENTS = {
    "image": {"type": "str", "required": True},
    "argv": {"type": "list", "elements": "str"},
    "stdin": {"type": "str"},
    "timeout": {"type": "float"},
    "output_limit": {"type": "str", "default": "10m"},
    **argspec.arguments(OPTIONS),
}


def action(module: shell.Module, site: Site) -> shell.Json:
    params = module.params
    argv = _argv(params)
    env = dict(names.environment("env", params["env"] or {}))
    limits = {
        "timeout": None if params["timeout"] is None else _seconds(params["timeout"]),
        "output_limit": quantities.size("output_limit", params["output_limit"]),
    }
    job = Job(params["image"], {name: params[name] for name in NAMES}, argv)
    if module.check_mode:
        launch.check(site, job)
        command_output.skip(module)
    stdin = params["stdin"]
    with streams(None if stdin is None else stdin.encode("utf-8", "surrogateescape")) as ends:
        fds = {f"{name}_fd": getattr(ends, name) for name in ("stdin", "stdout", "stderr")}
        done = run(site, job, launch.prepare, env=env, raises_refusal=True, **limits, **fds)
        result = {
            "changed": not isinstance(done.problem, NotStarted),
            "cmd": argv,
            "rc": done.code,
            **command_output.texts(*ends.written()),
            "timed_out": done.timed_out,
            "oom_killed": done.oom_killed,
            "duration": round(done.seconds, 3),
        }
    return command_output.finish(module, result, str(done.problem or ""))


def _argv(params: Mapping[str, Any]) -> list[str]:
    if params["argv"] is not None and params["command"] is not None:
        raise SpecError("argv", params["argv"], "can't be combined with command", hint="use one")
    if params["argv"] is not None:
        return list(names.command("argv", params["argv"]))
    return list(names.command("command", params["command"] or []))


def _seconds(value: float) -> float:
    return quantities.number("timeout", value, minimum=0.001, maximum=2_000_000, digits=3)
