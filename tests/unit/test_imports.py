# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the launcher's processes import: all of it is memory that every sandbox shares or copies."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils"
PYTHON = "/usr/bin/python3"

# C modules, and what these and os import by themselves.
ZYGOTE = {
    *("_ctypes", "_socket", "_struct", "errno", "fcntl", "gc", "marshal", "resource", "select"),
    *("time", "_stat", "ctypes", "ctypes._endian", "struct", "types", "__future__"),
    *("abc", "_abc", "_collections_abc", "genericpath", "os", "os.path", "posixpath", "stat"),
}
# Beyond that, in the launcher and its workers: the JSON of state files.
LAUNCHER = {
    *("base64", "binascii", "collections", "copyreg", "enum", "functools", "itertools", "json"),
    *("json.decoder", "json.encoder", "json.scanner", "keyword", "operator", "re", "reprlib"),
    *("_collections", "_functools", "_json", "_operator", "_sre"),
    *("re._casefix", "re._compiler", "re._constants", "re._parser"),
    *("sre_compile", "sre_constants", "sre_parse"),
}
ENGINE_ZYGOTE = {
    *("errors", "kernel", "kernel.confine", "kernel.libc", "kernel.mounts", "kernel.namespaces"),
    *(
        "kernel.program",
        "kernel.signals",
        "kernel.text",
        "init",
        "init.child",
        "init.confine",
        "init.exec",
        "init.limits",
    ),
    *("init.health", "init.journal", "init.ring", "kernel.loop", "launcher.zygote_client"),
    *("init.logs", "init.policy", "init.process", "init.warm_up", "init.status"),
    *("init.supervisor", "launcher", "wire", "init.users", "launcher.zygote"),
    "launcher.inherited",
}
ENGINE_LAUNCHER = {
    *("build", "sandbox"),
    *(
        "kernel.mountinfo",
        "site",
        "kernel.processes",
        "sandbox.runtime",
        "store",
        "build.builder",
        "build.creator",
        "build.rootfs",
    ),
    *(
        "kernel.files",
        "kernel.flock",
        "kernel.fork",
        "kernel.linkflags",
        "kernel.nlmsg",
        "kernel.nftables",
        "launcher.command",
        "build.operations",
        "build.rootplan",
        "build.stacking",
        "kernel.netns",
        "sandbox.oom",
        "launcher.refresher",
        "launcher.server",
        "build.namespace",
        "launcher.stopper",
        "launcher.watch",
        "launcher.worker",
    ),
}


def imported(module: str) -> set[str]:
    """Modules that an isolated interpreter has after importing one, beyond what it starts with."""
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        f"import {module}; print(*set(sys.modules) - before)"
    )
    command = [PYTHON, "-ISEB", "-X", "utf8", "-c", code, str(ENGINE)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("module", "standard", "engine"),
    [
        ("zygote", ZYGOTE, ENGINE_ZYGOTE),
        ("server", ZYGOTE | LAUNCHER, (ENGINE_ZYGOTE | ENGINE_LAUNCHER)),
    ],
)
def test_import_budget(module: str, standard: set[str], engine: set[str]) -> None:
    found = imported(f"sandlot.launcher.{module}")
    ours = {name.partition(".")[2] for name in found if name.startswith("sandlot.")}
    assert ours - engine == set()
    assert {name for name in found if name.partition(".")[0] != "sandlot"} - standard == set()
