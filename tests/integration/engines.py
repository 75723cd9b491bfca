# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Whole engines of other versions: changed copies of this one, run by processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils" / "sandlot"
PRESENT = """\
from sandlot.host import install
outcome = install.present(paths, check=arguments["check"])
answer = {"changed": outcome.changed, "actions": outcome.actions}
"""
ABSENT = PRESENT.replace("install.present", "install.absent")
CONVERGE = """\
from sandlot import converge
from sandlot.spec import normalise_all
request = converge.request(normalise_all(arguments["specs"]), purge=True)
result = converge.converge(paths, request)
answer = {"actions": result.actions, "failed": result.failed}
"""
# Compiling is not what is tested, and takes most of the time.
_FRAME = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from sandlot.host import payload
from sandlot.errors import SandlotError
from sandlot.site import Site
payload._compile = lambda directory: None
paths, arguments = Site(sys.argv[2]), json.loads(sys.argv[3])
try:
{body}
except SandlotError as error:
    answer = {{"error": str(error)}}
print(json.dumps(answer))
"""


class Engine:
    """A version of sandlot: what its modules would do on a host."""

    def __init__(self, directory: Path, version: str, changes: Mapping[str, Any] = {}) -> None:
        self.directory = directory
        self.version = version
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ENGINE, directory / "sandlot", ignore=ignored)
        self.change("__init__.py", '__version__ = "', f'__version__ = "{version}-')
        for name, (old, new) in changes.items():
            self.change(name, old, new)

    def change(self, name: str, old: str, new: str) -> None:
        path = self.directory / "sandlot" / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def present(self, root: str, *, check: bool = False) -> dict[str, Any]:
        return self.run(root, PRESENT, check=check)

    def absent(self, root: str) -> dict[str, Any]:
        return self.run(root, ABSENT, check=False)

    def converge(self, root: str, *specs: dict[str, Any]) -> dict[str, Any]:
        return self.run(root, CONVERGE, specs=specs)

    def run(self, root: str, body: str, **arguments: Any) -> dict[str, Any]:
        code = _FRAME.format(body="".join(f"    {line}\n" for line in body.splitlines()))
        command = [sys.executable, "-c", code, str(self.directory), root, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def sandlot(root: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    """The installed command, whatever version that is."""
    command = [sys.executable, "-I", f"{root}/usr/local/bin/sandlot", *words]
    environment = {**os.environ, "SANDLOT_ROOT": root}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=environment, **{**pipes, **options})


def output_of(root: str, *words: str) -> str:
    """Its output, once it has ended well."""
    process = sandlot(root, *words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out
