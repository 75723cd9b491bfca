# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandbox_exec: one sandbox with the results of `command`, and many by name or label.

Most tests call the module's part of the engine, as each task of a play takes a second.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

import plays
import pytest
from converge_fixtures import Deployment, eventually, needs_root, sandbox
from sandlot.errors import SandlotError
from sandlot.modules import sandbox_exec

pytestmark = needs_root
SECRET = "hidden-value"


class Ended(Exception):
    """A module that ends early, with its result."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result)
        self.result = result


class Module:
    _diff = False

    def __init__(self, params: dict[str, Any], *, check: bool) -> None:
        defaults = {name: row.get("default") for name, row in sandbox_exec.ARGUMENTS.items()}
        self.params = {**defaults, **params}
        self.check_mode = check
        self.warnings: list[str] = []

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)

    def exit_json(self, **result: Any) -> NoReturn:
        raise Ended({**result, "failed": False})

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        raise Ended({**result, "msg": msg, "failed": True})


def call(host: Deployment, *, check: bool = False, **params: Any) -> dict[str, Any]:
    module = Module(params, check=check)
    try:
        result = {**sandbox_exec.action(module, host.paths), "failed": False}
    except Ended as end:
        result = end.result
    return {**result, "warnings": module.warnings}


def test_a_play(host: Deployment) -> None:
    host.run(sandbox("web", labels={"role": "web"}))
    script = "cat; echo $A; echo err >&2; exit 3"
    argv = ["sh", "-c", script]
    one = {"sandbox_exec": {"name": "web", "argv": argv, "stdin": "in", "env": {"A": SECRET}}}
    several = {"sandbox_exec": {"labels": {"role": "web"}, "command": "false"}}
    found = plays.play(
        host.paths,
        {**one, "failed_when": "false"},
        several,
        {**several, "check_mode": True},
        {"sandbox_exec": {"labels": {"role": "db"}, "command": "true"}},
        fails=True,
    )
    first, failed, checked, none = found
    assert (first["rc"], first["changed"], first["failed"]) == (3, True, False)
    assert (first["stdout_lines"], first["stderr_lines"]) == (["in", SECRET], ["err"])
    assert SECRET not in str(first["invocation"])
    assert failed["failed"] and failed["results"][0]["rc"] == 1
    assert failed["msg"] == "web: non-zero return code"
    assert checked["results"][0]["skipped"] and not checked["changed"] and not checked["failed"]
    assert (none["changed"], none["results"], none["failed"]) == (False, [], False)
    assert none["warnings"] == ["no sandbox has the labels role=db"]


def test_one_sandbox(host: Deployment) -> None:
    host.run(sandbox("web"))
    done = call(host, name="web", command="sh -c 'pwd; id -u'", chdir="/etc", user="0")
    assert done["stdout_lines"] == ["/etc", "0"]
    assert done["delta"].startswith("0:00:0") and done["end"] > done["start"]
    words = call(host, name="web", command="printf '%s|' one 'two words'")
    assert (words["stdout"], words["cmd"][1:]) == ("one|two words|", ["%s|", "one", "two words"])
    raw = call(host, name="web", argv=["printf", "a\\377b\\n\\n"], strip_empty_ends=False)
    plain = call(host, name="web", argv=["cat"], stdin="x", stdin_add_newline=False)
    assert (raw["stdout"], plain["stdout"]) == ("a\ufffdb\n\n", "x")
    detached = call(host, name="web", command="sleep 1000", detach=True)
    assert (detached["rc"], detached["stdout"]) == (0, "")
    assert len(call(host, name="web", command="pidof sleep")["stdout"].split()) == 2


def test_creates_and_removes(host: Deployment) -> None:
    """Inside only: a tenant's link leads to nothing of the host."""
    host.run(sandbox("web"))
    make = {"name": "web", "command": "touch /made", "creates": "/made"}
    take = {"name": "web", "command": "rm /made", "removes": "/made"}
    would = call(host, check=True, **make)
    assert would["changed"] and would["msg"].startswith("Command would have run")
    results = [call(host, **options) for options in (make, make, take, take)]
    assert [each["changed"] for each in results] == [True, False, True, False]
    assert results[1]["msg"] == "Did not run command since /made exists" and results[1]["rc"] == 0
    assert results[3]["stdout"] == "skipped, since /made does not exist"
    passwd = call(host, check=True, name="web", command="true", creates="/etc/passwd")
    assert passwd["msg"] == "Would not run command since /etc/passwd exists"
    assert not passwd["changed"]
    new = call(host, check=True, name="new", command="true", creates="/x")
    assert new["changed"] and "skipped" not in new
    only = call(host, check=True, name="web", command="true")
    assert (only["skipped"], only["changed"]) == (True, False)
    call(host, name="web", argv=["ln", "-s", f"../../../..{__file__}", "/link"])
    assert call(host, name="web", command="echo ran", creates="/link")["stdout"] == "ran"


def test_failures(host: Deployment) -> None:
    host.run(sandbox("web"), sandbox("off", state="stopped"))
    code = call(host, name="web", command="false")
    assert (code["rc"], code["msg"], code["changed"]) == (1, "non-zero return code", True)
    assert code["failed"] and "kind" not in code
    late = call(host, name="web", command="sh -c 'echo begun; sleep 1000'", timeout=1)
    assert (late["rc"], late["kind"], late["stdout"]) == (124, "timeout", "begun")
    flood = call(host, name="web", command="yes", output_limit="1k")
    assert (flood["rc"], flood["kind"], len(flood["stdout"])) == (125, "output-limit", 1023)
    missing = call(host, name="web", command="nosuch")
    assert (missing["rc"], missing["kind"], missing["changed"]) == (127, "not-started", False)
    assert missing["msg"] == "web: nosuch: command not found"
    nobody = call(host, name="nobody", command="true")
    assert (nobody["kind"], nobody["changed"]) == ("missing", False)
    assert "known: off, web" in nobody["msg"]
    off = call(host, name="off", command="true", creates="/x")
    assert (off["rc"], off["kind"], off["failed"]) == (125, "stopped", True)


@pytest.mark.parametrize(
    ("params", "option"),
    [
        ({"name": "web", "names": ["web"], "command": "true"}, "name"),
        ({"command": "true"}, "name"),
        ({"name": "web"}, "argv"),
        ({"name": "web", "command": "true", "argv": ["true"]}, "argv"),
        ({"name": "web", "command": ""}, "command"),
        ({"name": "web", "command": "'"}, "command"),
        ({"labels": {}, "command": "true"}, "labels"),
        ({"labels": {"a": 1}, "command": "true"}, "labels"),
        ({"name": "web", "command": "true", "creates": "x"}, "creates"),
        ({"name": "web", "command": "true", "timeout": 0}, "timeout"),
        ({"name": "web", "command": "true", "output_limit": "x"}, "output_limit"),
        ({"name": "web", "command": "true", "stdin": "x", "detach": True}, "stdin"),
        ({"name": "web", "command": "true", "forks": 0}, "forks"),
        ({"name": "web", "command": "true", "env": {"A=": "x"}}, "env"),
    ],
    ids=str,
)
def test_wrong_arguments(host: Deployment, params: dict[str, Any], option: str) -> None:
    with pytest.raises(SandlotError, match=f"^{option}") as wrong:
        call(host, **params)
    assert wrong.value.hint


def test_many_sandboxes(host: Deployment) -> None:
    """By names and by labels, some at a time; one failure does not stop the others."""
    labels = {"role": "web", "tier": "1"}
    many = [sandbox(f"w{number}", labels=labels) for number in range(4)]
    others = [
        sandbox("db", labels={"role": "db", "tier": "1"}),
        sandbox("off", labels=labels, state="stopped"),
        sandbox("done", labels=labels, command=["false"], restart_policy="no"),
    ]
    host.run(*many, *others)
    eventually(lambda: host.info("done")["state"] == "exited")
    # Each waits for the others: they run at a time.
    begin = time.monotonic()
    labelled = call(host, labels=labels, command="sh -c 'sleep 2; hostname'")
    assert time.monotonic() - begin < 8
    assert [each["name"] for each in labelled["results"]] == ["done", "w0", "w1", "w2", "w3"]
    assert [each["stdout"] for each in labelled["results"]] == ["", "w0", "w1", "w2", "w3"]
    done = labelled["results"][0]
    assert (done["kind"], done["failed"], done["changed"]) == ("stopped", True, False)
    assert labelled["failed"] and labelled["changed"]
    assert labelled["msg"] == "done: done is not running; start it: sandlot start done"
    half = call(host, names=["w1", "db", "w1"], argv=["sh", "-c", '[ "$(hostname)" = db ]'])
    assert [(each["name"], each["rc"]) for each in half["results"]] == [("w1", 1), ("db", 0)]
    assert (half["rc"], half["msg"]) == (1, "w1: non-zero return code")
    good = call(host, names=["db", "w0"], command="hostname", forks=1)
    assert (good["failed"], good["changed"], good["rc"]) == (False, True, 0)
    flood = call(host, names=[f"w{n}" for n in range(4)], argv=["yes"])
    assert {each["kind"] for each in flood["results"]} == {"output-limit"}
    assert {len(each["stdout"]) for each in flood["results"]} == {(10 << 18) - 1}
    check = call(host, check=True, names=["db", "w0"], command="touch /x")
    assert check["skipped"] and not check["changed"]
    assert call(host, names=[], command="true")["results"] == []
