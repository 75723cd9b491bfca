# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What the launcher's processes import: all of it is memory that every sandbox shares or copies."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils"
PYTHON = "/usr/bin/python3"

# What the engine imports of the standard library, here and below with all that it imports itself.
ZYGOTE = (
    *("__future__", "_ctypes", "_socket", "ctypes", "errno", "fcntl", "gc", "marshal", "os"),
    *("resource", "select", "stat", "struct", "time", "types"),
)
# Beyond that, in the launcher and its workers: the JSON of state files.
LAUNCHER = ("base64", "collections", "collections.abc", "functools", "json", "re")
ENGINE_ZYGOTE = {
    *("errors", "kernel", "kernel.confine", "kernel.libc", "kernel.mounts", "kernel.namespaces"),
    *(
        "kernel.program",
        "kernel.signals",
        "kernel.text",
        "init",
        "init.child",
        "init.exec",
        "init.limits",
    ),
    *("init.files", "kernel.filedata", "kernel.files"),
    *("init.health", "init.journal", "init.ring", "kernel.loop", "launcher.zygote_client"),
    *("init.logs", "init.policy", "init.process", "init.warm_up", "init.status"),
    *(
        "init.memory",
        "init.reaper",
        "init.resume",
        "init.supervisor",
        "launcher",
        "wire",
        "init.users",
        "launcher.zygote",
    ),
    *("launcher.inherited", "kernel.elf", "kernel.pid_one", "kernel.calls", "kernel.call_table"),
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
        "build.cgroupfs",
        "build.init_calls",
        "build.lxcfs",
        "sandbox.lxcfs",
        "kernel.hierarchies",
        "build.creator",
        "build.machine_id",
        "build.rootfs",
    ),
    *(
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


def imported(code: str) -> set[str]:
    """Modules that an isolated interpreter has after some code, beyond what it starts with."""
    whole = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1])\n"
        f"{code}\nprint(*set(sys.modules) - before)"
    )
    command = [PYTHON, "-ISEB", "-X", "utf8", "-c", whole, str(ENGINE)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def standard(names: tuple[str, ...]) -> set[str]:
    """These modules, and what this Python needs for them and for a structure of ctypes."""
    structure = "type('S', (ctypes.Structure,), {'_fields_': [('a', ctypes.c_int)]})"
    return imported(f"import {', '.join(names)}\n{structure}")


@pytest.mark.parametrize(
    ("module", "names", "engine"),
    [
        ("zygote", ZYGOTE, ENGINE_ZYGOTE),
        ("server", ZYGOTE + LAUNCHER, (ENGINE_ZYGOTE | ENGINE_LAUNCHER)),
    ],
)
def test_import_budget(module: str, names: tuple[str, ...], engine: set[str]) -> None:
    # Imported by the zygote after its warm-up.
    found = imported(f"import sandlot.launcher.{module}, sandlot.init.files")
    ours = {name.partition(".")[2] for name in found if name.startswith("sandlot.")}
    assert ours - engine == set()
    others = {name for name in found if name.partition(".")[0] != "sandlot"}
    assert others - standard(names) == set()
