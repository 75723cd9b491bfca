# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Another version of sandlot takes over a host on which sandboxes run, and the one before it again.

Each version is a whole engine of its own, installed by its own code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox, tree
from engines import Engine, output_of, sandlot
from sandboxes import SUPERVISOR, name_of
from sandlot import store
from sandlot.launcher.client import Launcher
from sandlot.network.bridge import nft

pytestmark = needs_root

TALKS = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"]
SPECS = [
    sandbox("a", command=TALKS, memory="64m", restart_policy="always"),
    sandbox("b"),
]
# What state files and inits of the first version do not have.
FIRST_RECORD = {"schema", "name", "phase", "wanted", "spec", "digest", "ids", "image", "interfaces"}
FIRST_LAUNCH = {
    *("schema", "name", "digest", "ids", "lower", "idmap", "upper", "work", "read_only"),
    *("hostname", "argv", "env", "cwd", "user", "tmpfs", "files", "cgroups", "rlimits", "sysctls"),
    *("capabilities", "seccomp", "masked", "readonly", "time_offset", "restart", "stop"),
    *("log_max_size", "layers", "netns"),
}
FIRST_STATUS = {"state", "pid", "since", "restarts", "exit_code", "final", "lost_log_bytes"}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Its inits don't say what protocol they speak, and know no answer to what they don't know."""
    changes = {
        "build/builder.py": (', "protocol": runtime.PROTOCOL}', "}"),
        "launcher/server.py": ('{"version": __version__,', '{"version": "0.0", "what": "old",'),
    }
    return Engine(tmp_path_factory.mktemp("older"), "0.0.9", changes)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """It keeps its state in another schema."""
    changes = {"store.py": ("SCHEMA = 1\nNEWEST = 2\n", "SCHEMA = 3\nNEWEST = 3\n")}
    return Engine(tmp_path_factory.mktemp("newer"), "9.9.9", changes)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("same"), "1.0.1")


@pytest.fixture
def host() -> Iterator[Deployment]:
    with deployed() as deployment:
        yield deployment


def version(host: Deployment) -> str:
    return str((Launcher(host.paths).ping() or {}).get("version"))


def launcher(host: Deployment) -> int:
    return int((Launcher(host.paths).ping() or {})["pid"])


def processes(host: Deployment) -> dict[str, str]:
    """Every process of the sandboxes but supervisors, which end without work, and the launcher."""
    found = {}
    for pid in (launcher(host), host.pid("a"), host.pid("b")):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        inside = children if pid != launcher(host) else []
        inside = [child for child in inside if name_of(int(child)) != SUPERVISOR]
        for each in (str(pid), *inside):
            found[each] = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[19]
    return found


def lines(host: Deployment) -> list[str]:
    return output_of(host.paths.root, "logs", "a").splitlines()


def grows(host: Deployment) -> None:
    """The log goes on where it was, with no line missing and none twice."""
    before = len(lines(host))
    eventually(lambda: len(lines(host)) > before)
    after = lines(host)
    assert after == [f"line {n + 1}" for n in range(len(after))]


def session(host: Deployment) -> subprocess.Popen[str]:
    """An exec that answers each line, open."""
    process = sandlot(host.paths.root, "exec", "-i", "a", "--", "cat")
    assert answers(process)
    return process


def answers(process: subprocess.Popen[str]) -> bool:
    assert process.stdin and process.stdout
    process.stdin.write("ping\n")
    process.stdin.flush()
    return process.stdout.readline() == "ping\n"


def end(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_forth_and_back(host: Deployment, older: Engine, same: Engine) -> None:
    """Nothing that runs notices."""
    root = host.paths.root
    assert older.present(root)["changed"]
    assert older.converge(root, *SPECS)["failed"] == {}
    opened, before = session(host), processes(host)
    for engine, told_version in ((same, "1.0.1-"), (older, "0.0")):
        actions = engine.present(root, check=True)["actions"]
        assert engine.present(root)["actions"] == actions
        assert engine.present(root)["actions"] == []
        assert version(host).startswith(told_version)
        assert engine.converge(root, *SPECS) == {"actions": [], "failed": {}}
        assert processes(host) == before
        grows(host)
        assert answers(opened)
        works(host)
    end(opened)


def works(host: Deployment) -> None:
    """All a user does with sandboxes whose inits are of another version; they go on running."""
    root = host.paths.root
    assert output_of(root, "exec", "b", "--", "hostname") == "b\n"
    (found,) = json.loads(output_of(root, "inspect", "b", "--format", "json"))
    assert (found["state"], found["pid"]) == ("running", host.pid("b"))
    states = {
        each["name"]: each["state"] for each in json.loads(output_of(root, "list", "--format=json"))
    }
    assert states == {"a": "running", "b": "running"}


def test_inits_of_another_version_obey(host: Deployment, older: Engine, same: Engine) -> None:
    """Live settings, crash, stop, start and restart, after an upgrade and after a rollback."""
    root = host.paths.root
    for first, second in ((older, same), (same, older)):
        first.present(root)
        first.converge(root)
        first.converge(root, *SPECS)
        second.present(root)
        before = host.pid("b")
        changed = [SPECS[0], {**SPECS[1], "restart_policy": "no", "stop_timeout": 1}]
        assert second.converge(root, *changed)["failed"] == {}
        assert host.pid("b") == before
        host.kill("a")
        eventually(lambda: "running" in output_of(root, "inspect", "a"))
        assert output_of(root, "exec", "a", "--", "hostname") == "a\n"
        output_of(root, "stop", "b")
        assert host.info("b")["state"] == "stopped"
        output_of(root, "start", "b")
        output_of(root, "restart", "a")
        assert second.converge(root, *changed) == {"actions": [], "failed": {}}


def reduced(path: str, keys: set[str]) -> None:
    """A state file as the first version wrote it."""
    data = json.loads(Path(path).read_text())
    kept = {key: value for key, value in data.items() if key in keys}
    store.replace(path, json.dumps(kept).encode(), durable=False)


def test_state_of_the_first_version(host: Deployment) -> None:
    """Keys that later versions added are missing: nothing is restarted, and a crash is repaired."""
    host.converged(*SPECS)
    pid, paths = host.pid("a"), host.paths.sandbox("a")
    reduced(paths.launch, FIRST_LAUNCH)
    reduced(paths.record, FIRST_RECORD)
    status = json.loads(Path(paths.status).read_text())
    known = json.dumps({key: status[key] for key in FIRST_STATUS}).ljust(512)
    Path(paths.status).write_text(known)
    assert host.info("a")["state"] == "running"
    assert "running" in output_of(host.paths.root, "list")
    host.kill("a")
    eventually(lambda: host.info("a")["state"] == "running" and host.pid("a") != pid)
    assert not [line for line in host.run(*SPECS).actions if "restart" in line]


def test_a_newer_schema_is_not_rolled_back(host: Deployment, newer: Engine, same: Engine) -> None:
    """Refused in check mode as well, before anything is changed; the newer version goes on."""
    root = host.paths.root
    same.present(root)
    same.converge(root, *SPECS)
    assert newer.present(root)["changed"]
    # Nothing has been written by the newer version yet.
    assert same.present(root)["changed"]
    newer.present(root)
    try:
        assert newer.converge(root, *SPECS, sandbox("c"))["failed"] == {}
        refused(host, same)
        assert version(host).startswith("9.9.9")
        assert newer.converge(root, *SPECS, sandbox("c")) == {"actions": [], "failed": {}}
    finally:
        # As the remedy says.
        assert newer.converge(root)["failed"] == {}
        assert newer.absent(root)["changed"]
    assert same.present(root)["changed"]
    host.prepare()
    host.converged(*SPECS)


def refused(host: Deployment, engine: Engine) -> None:
    before, state = processes(host), without_logs(host)
    for check in (True, False):
        error = engine.present(host.paths.root, check=check)["error"]
        assert "sandboxes/" in error and "has schema 3" in error and "knows 2" in error
        assert "go on with the installed version" in error
    assert without_logs(host) == state
    assert processes(host) == before


def without_logs(host: Deployment) -> list[str]:
    return [line for line in tree(host.paths.root) if "/log." not in line]


def test_inits_of_a_newer_protocol(host: Deployment, tmp_path: Path) -> None:
    """An older version does not talk to them; it says what to do, and that works."""
    root = host.paths.root
    future = Engine(tmp_path, "8.0", {"sandbox/runtime.py": ("PROTOCOL = 1\n", "PROTOCOL = 2\n")})
    future.present(root)
    future.converge(root, SPECS[1])
    with pytest.raises(Exception, match="init of b speaks protocol 2.* knows 1; .*or stop b first"):
        present(host)
    output_of(root, "stop", "b")
    present(host)
    output_of(root, "start", "b")
    assert output_of(root, "exec", "b", "--", "hostname") == "b\n"


def present(host: Deployment) -> None:
    from sandlot.host import install as runtime_of_host

    runtime_of_host.present(host.paths, check=False)


# Where a run that upgrades dies, and what comes before.
POINTS = {
    "before the first file": "payload.install = die",
    "before the switch": "payload._switch = die",
    "after the switch": "payload._remove_others = die",
    "once the launcher knows": "install.store.remove = die",
}
KILLED = """\
import os, signal
from sandlot.host import install
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
{point}
install.present(paths, check=False)
"""


def test_killed_in_the_middle(host: Deployment, older: Engine, same: Engine) -> None:
    """Whatever is in place works, and the next run of either version finishes."""
    root = host.paths.root
    older.present(root)
    older.converge(root, *SPECS)
    before = processes(host)
    for number, point in enumerate(POINTS.values()):
        engine = (same, older)[number % 2]
        with pytest.raises(AssertionError):
            engine.run(root, KILLED.format(point=point))
        assert output_of(root, "exec", "a", "--", "hostname") == "a\n"
        assert engine.present(root)["actions"][-1] == "runtime: upgrade the launcher"
        assert version(host).startswith(("1.0.1-", "0.0")[number % 2])
    assert engine.present(root)["actions"] == []
    assert not [name for name in os.listdir(host.paths.lib) if name.endswith(".new")]
    assert processes(host) == before


def test_the_launcher_is_killed_while_it_takes_over(
    host: Deployment, older: Engine, same: Engine
) -> None:
    root = host.paths.root
    older.present(root)
    older.converge(root, *SPECS)
    before = host.pid("a"), host.pid("b")
    dying = "install.Launcher.upgrade = die"
    with pytest.raises(AssertionError):
        same.run(root, KILLED.format(point=dying))
    pidfd = os.pidfd_open(launcher(host))
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    same.present(root)
    output_of(root, "restart", "b")
    assert version(host).startswith("1.0.1-")
    assert host.pid("a") == before[0] and host.pid("b") != before[1]
    assert nft.observe(host.paths).present
