# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A host deployed with dd050e5 is upgraded: nothing restarts, its state is read, its inits obey."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import (
    Deployment,
    assert_gone,
    eventually,
    fetch,
    free_port,
    needs_root,
    sandbox,
    short_directory,
    untouched_host,
)
from engines import output_of, sandlot
from releases import Release
from sandboxes import workload_of
from sandlot import converge, images, network
from sandlot.host import install
from sandlot.launcher.client import Launcher
from sandlot.network.common import declare
from sandlot.plan import descriptions
from sandlot.sandbox import record, runtime
from sandlot.spec import stored

pytestmark = needs_root

TALKS = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"]
SERVES = ["sh", "-c", "touch /tmp/up; echo hello > /tmp/index.html; exec httpd -f -h /tmp"]
IMAGES = [{"name": "busybox", "source": "busybox"}]
HEALTH = {"test": "test -e /tmp/up", "interval": "100ms", "timeout": "5s", "retries": 2}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(tmp_path_factory.mktemp("dd050e5"))


def networks(host: Deployment) -> list[dict[str, Any]]:
    return [
        {"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"},
        {"name": "closed", "ipv4_subnet": f"{host.prefix}.4.0/24", "isolated": True, "egress": []},
    ]


def everything(port: int) -> list[dict[str, Any]]:
    """Sandboxes that between them use each kind of option; ``web`` is stopped by no test."""
    limits = {"memory": "64m", "cpus": 0.5, "pids_limit": 64, "cpuset_cpus": "0"}
    return [
        sandbox("talker", command=TALKS, restart_policy="always", labels={"a": "b"}, **limits),
        sandbox(
            "web",
            command=SERVES,
            healthcheck=HEALTH,
            published_ports=[f"{port}:80"],
            tmpfs=["/tmp:size=1m"],
            etc_hosts={"other": "192.0.2.1"},
            dns_servers=["192.0.2.53"],
            sysctls={"net.ipv4.ip_forward": "0"},
            ulimits=["nofile=1024:4096"],
        ),
        sandbox("side", network_mode="container:web", depends_on=["web"], env={"A": "1"}),
        sandbox("closed", networks=[{"name": "closed", "aliases": ["c"]}], egress=["dns"]),
        sandbox("loose", capabilities=["NET_RAW"], seccomp_profile="unconfined", read_only=True),
        sandbox("lonely", network_mode="none", hostname="h", user="33:33", working_dir="/tmp"),
        sandbox("stopped", state="stopped", egress_rate="10mbit", stop_signal="SIGINT"),
        sandbox("job", command=["sh", "-c", "exit 3"], restart_policy="no", state="present"),
    ]


@contextlib.contextmanager
def earlier(release: Release) -> Iterator[Deployment]:
    """A host on which the earlier release is installed; the present engine takes it down."""
    with short_directory() as root:
        host = Deployment(root)
        with untouched_host(root):
            try:
                release.call(root, "prepare", networks=networks(host), wanted=IMAGES)
                yield host
            finally:
                host.teardown()
        assert_gone(host.paths)


def deploy(release: Release, host: Deployment, *specs: dict[str, Any]) -> None:
    answer = release.call(host.paths.root, "deploy", specs=specs)
    assert answer.get("failed") == {}, answer
    again = release.call(host.paths.root, "deploy", specs=specs)
    assert again == {"actions": [], "failed": {}}


def upgrade(host: Deployment) -> list[str]:
    return install.present(host.paths, check=False).actions


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def inits(host: Deployment) -> dict[str, tuple[int, str]]:
    """Pid and start time of each running init."""
    found = {}
    for path in Path(host.paths.run).glob("*/init.json"):
        with contextlib.suppress(AssertionError):
            pid = host.pid(path.parent.name)
            found[path.parent.name] = (pid, start_time(pid))
    return found


def workloads(host: Deployment) -> dict[int, str]:
    """The first processes of the sandboxes, without those that come and go by themselves."""
    pids = [workload_of(pid) for pid, _ in inits(host).values()]
    return {pid: start_time(pid) for pid in pids}


def launcher(host: Deployment) -> int:
    return int((Launcher(host.paths).ping() or {})["pid"])


def state_files(host: Deployment) -> dict[str, bytes]:
    """What a run has to leave as it is when it has nothing to do."""
    paths = [
        *Path(host.paths.state).glob("*.json"),
        *Path(host.paths.sandboxes).glob("*/*.json"),
        *Path(host.paths.images).glob("*.json"),
        *Path(host.paths.images).glob("trees/*/about.json"),
        *Path(host.paths.run).glob("*/*.json"),
        *Path(host.paths.run).glob(".*.json"),
    ]
    return {str(path): path.read_bytes() for path in paths}


class Upgraded:
    """The host after the upgrade, and what was seen of it before."""

    def __init__(self, host: Deployment, release: Release) -> None:
        self.host = host
        self.port = free_port()
        self.specs = everything(self.port)
        deploy(release, host, *self.specs)
        self.inits, self.workloads = inits(host), workloads(host)
        self.launcher, self.files = launcher(host), state_files(host)
        self.session = sandlot(host.paths.root, "exec", "-i", "talker", "--", "cat")
        assert answers(self.session)
        self.facts = json.loads(
            output_of(host.paths.root, "inspect", *names(self), "--format=json")
        )
        self.actions = upgrade(host)

    def spec(self, name: str, **changes: Any) -> list[dict[str, Any]]:
        """All of them, one with changes."""
        return [{**each, **changes} if each["name"] == name else each for each in self.specs]


def names(upgraded: Upgraded) -> list[str]:
    return [each["name"] for each in upgraded.specs]


def answers(process: subprocess.Popen[str]) -> bool:
    assert process.stdin and process.stdout
    process.stdin.write("ping\n")
    process.stdin.flush()
    return process.stdout.readline() == "ping\n"


@pytest.fixture(scope="module")
def upgraded(release: Release) -> Iterator[Upgraded]:
    with earlier(release) as host:
        found = Upgraded(host, release)
        yield found
        out, err = found.session.communicate(timeout=30)
        assert (found.session.returncode, out, err) == (0, "", "")


@pytest.fixture
def host(upgraded: Upgraded) -> Iterator[Deployment]:
    """As it was deployed once more, after each test."""
    yield upgraded.host
    upgraded.host.converged(*upgraded.specs, purge=True)
    assert answers(upgraded.session)


# -- the upgrade, and what it finds; in this order


def test_nothing_restarts(upgraded: Upgraded, host: Deployment) -> None:
    assert upgraded.actions[0].startswith("runtime: install version ")
    assert upgraded.actions[-1] == "runtime: upgrade the launcher"
    assert upgrade(host) == []
    assert sorted(inits(host)) == ["closed", "lonely", "loose", "side", "talker", "web"]
    assert inits(host) == upgraded.inits
    assert workloads(host) == upgraded.workloads
    assert launcher(host) == upgraded.launcher
    assert answers(upgraded.session)


def test_the_second_run_has_nothing_to_do(upgraded: Upgraded, host: Deployment) -> None:
    wanted = network.normalise(host.paths, networks(host))
    assert declare.load(host.paths) == wanted
    specs = images.normalise_all(IMAGES)
    assert descriptions(images.operations(host.paths, specs, purge=True)) == []
    result = host.run(*upgraded.specs, purge=True)
    assert (result.actions, result.failed) == ([], {})
    assert converge.up(host.paths).actions == []
    assert inits(host) == upgraded.inits


def test_state_files_are_read(upgraded: Upgraded, host: Deployment) -> None:
    """None is broken, each says the same as before, and the run above has rewritten none."""
    records = record.load_all(host.paths)
    assert records.broken == {} and sorted(records.good) == sorted(names(upgraded))
    found = state_files(host)
    assert found.keys() == upgraded.files.keys()
    for path, content in upgraded.files.items():
        if not path.startswith(f"{host.paths.run}/."):
            assert found[path] == content, path
    for name, known in records.good.items():
        raw = json.loads(upgraded.files[host.paths.sandbox(name).record])
        assert (stored.digest(known.spec), known.wanted, known.phase) == (
            raw["digest"],
            raw["wanted"],
            raw["phase"],
        )
    # Room for the next record on a full disk, which records of dd050e5 do not have.
    assert all(Path(host.paths.sandbox(name).spare).exists() for name in records.good)


def test_facts_are_those_of_before(upgraded: Upgraded, host: Deployment) -> None:
    changing = ("memory", "uptime", "last_log", "health_output")
    shown = output_of(host.paths.root, "inspect", *names(upgraded), "--show-env", "--format=json")
    found = json.loads(shown)
    for before, after in zip(upgraded.facts, found):
        # Keys that later versions added aside.
        kept = {key: after[key] for key in before if key not in changing}
        assert kept == {key: before[key] for key in before if key not in changing}


# -- inits of before


def test_exec_and_logs(upgraded: Upgraded, host: Deployment) -> None:
    root = host.paths.root
    assert output_of(root, "exec", "lonely", "--", "hostname") == "h\n"
    assert output_of(root, "exec", "side", "--", "sh", "-c", "echo $A") == "1\n"
    count = len(output_of(root, "logs", "talker").splitlines())
    eventually(lambda: len(output_of(root, "logs", "talker").splitlines()) > count)
    lines = output_of(root, "logs", "talker").splitlines()
    assert lines == [f"line {number + 1}" for number in range(len(lines))]


def test_healthchecks_go_on(upgraded: Upgraded, host: Deployment) -> None:
    root = host.paths.root
    for change, health in (("rm /tmp/up", "unhealthy"), ("touch /tmp/up", "healthy")):
        output_of(root, "exec", "web", "--", "sh", "-c", change)
        eventually(lambda wanted=health: host.info("web")["health"] == wanted)
    assert inits(host) == upgraded.inits


def test_ports_are_published(upgraded: Upgraded, host: Deployment) -> None:
    assert fetch("127.0.0.1", upgraded.port).endswith("hello\n")
    port = free_port()
    host.converged(*upgraded.spec("web", published_ports=[f"{port}:80"]))
    assert fetch("127.0.0.1", port).endswith("hello\n")
    assert inits(host) == upgraded.inits


def test_live_settings(upgraded: Upgraded, host: Deployment) -> None:
    changes = {"memory": "32m", "restart_policy": "no", "stop_timeout": 1, "labels": {"c": "d"}}
    changes.update(log_max_size="1m", memory_reservation="8m")
    result = host.converged(*upgraded.spec("talker", **changes))
    assert result.actions and not [line for line in result.actions if "restart)" in line]
    assert host.run(*upgraded.spec("talker", **changes)).actions == []
    assert inits(host) == upgraded.inits


def test_crashes_are_repaired(upgraded: Upgraded, host: Deployment) -> None:
    """Of an init by the launcher, of a workload by its init."""
    before = host.pid("loose")
    host.kill("loose")
    eventually(lambda: host.info("loose")["state"] == "running" and host.pid("loose") != before)
    init, workload = host.pid("closed"), children(host.pid("closed"))
    inside = runtime.status(host.paths.sandbox("closed"))["pid"]
    # The command ends with the workload, so its own end says nothing.
    sandlot(host.paths.root, "exec", "closed", "--", "kill", "-9", str(inside)).communicate()
    eventually(lambda: children(init) not in ([], workload))
    assert host.pid("closed") == init and host.info("closed")["restarts"] == 1


def test_stop_start_and_restart(upgraded: Upgraded, host: Deployment) -> None:
    root, others = host.paths.root, dict(inits(host))
    before = others.pop("lonely")
    output_of(root, "stop", "lonely")
    assert host.info("lonely")["state"] == "stopped"
    assert inits(host) == others
    output_of(root, "start", "lonely")
    output_of(root, "start", "stopped")
    assert output_of(root, "exec", "lonely", "--", "pwd") == "/tmp\n"
    output_of(root, "restart", "lonely")
    assert inits(host)["lonely"] != before
    output_of(root, "stop", "stopped")


def test_a_rebuild_that_fails_goes_back_to_the_layer_of_before(
    upgraded: Upgraded, host: Deployment
) -> None:
    output_of(host.paths.root, "exec", "closed", "--", "touch", "/mark")
    address = host.info("closed")["addresses"]
    result = host.run(*upgraded.spec("closed", command=["/missing"], recreate=True))
    assert list(result.failed) == ["closed"] and "the old one runs again" in result.failed["closed"]
    output_of(host.paths.root, "exec", "closed", "--", "test", "-e", "/mark")
    assert host.info("closed")["addresses"] == address
    assert host.run(*upgraded.specs).actions == []


# -- hosts in other states


@pytest.mark.parametrize("after", [1, 3, 4, 5, 8, 9])
def test_a_rebuild_that_was_killed_is_put_in_order(release: Release, after: int) -> None:
    """Until it was committed that is the old one, with what it wrote."""
    with earlier(release) as host:
        root = host.paths.root
        deploy(release, host, sandbox("a"), sandbox("b"))
        output_of(root, "exec", "a", "--", "touch", "/mark")
        address, untouched = host.info("a")["addresses"], host.pid("b")
        new = [sandbox("a", hostname="new", recreate=True), sandbox("b")]
        died = release.attempt(root, "rebuild_and_die", specs=new, after=after)
        assert died.returncode == -signal.SIGKILL, died.stderr
        upgrade(host)
        host.converged(sandbox("a"), sandbox("b"), purge=True)
        assert output_of(root, "exec", "a", "--", "hostname") == "a\n"
        output_of(root, "exec", "a", "--", "test", "-e", "/mark")
        assert host.info("a")["addresses"] == address and host.pid("b") == untouched


def test_a_boot_after_the_upgrade(release: Release) -> None:
    """All there is then are the state files."""
    with earlier(release) as host:
        port = free_port()
        deploy(release, host, *everything(port))
        before = {each["name"]: each["addresses"] for each in converge.info(host.paths)}
        output_of(host.paths.root, "exec", "talker", "--", "touch", "/mark")
        upgrade(host)
        host.reboot()
        declare.save(host.paths, network.normalise(host.paths, networks(host)))
        assert not converge.up(host.paths).failed
        host.converged(*everything(port), purge=True)
        found = {each["name"]: each["addresses"] for each in converge.info(host.paths)}
        assert found == before
        output_of(host.paths.root, "exec", "talker", "--", "test", "-e", "/mark")


def test_teardown_without_an_upgrade(release: Release) -> None:
    """By modules of the present version, while all of it runs."""
    with earlier(release) as host:
        deploy(release, host, *everything(free_port()))
        assert not host.run(purge=True).failed
        assert converge.info(host.paths) == []
