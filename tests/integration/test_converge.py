# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Whole runs on the real kernel: what a user asks for is what there is, and twice is once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from converge_fixtures import (
    IDLE,
    Deployment,
    eventually,
    fetch,
    free_port,
    needs_root,
    sandbox,
    tree,
    wait_readable,
)
from sandlot import converge, store
from sandlot.converge import resolve
from sandlot.errors import SandlotError, SpecError
from sandlot.host import install as runtime_of_host
from sandlot.host import probe
from sandlot.idmap import observe as observe_ids
from sandlot.kernel import mounts
from sandlot.launcher.client import Launcher
from sandlot.sandbox import runtime

pytestmark = needs_root


def test_three_sandboxes_from_nothing(host: Deployment) -> None:
    port = free_port()
    serve = ["sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    specs = [
        sandbox("web", command=serve, published_ports=[f"{port}:80"], memory="64m"),
        sandbox("worker"),
        sandbox("shell", networks=[]),
    ]
    result = host.run(*specs)
    assert result.changed and not result.failed
    assert [line for line in result.actions if line.startswith("web:")] == [
        "web: create from busybox",
        "web: start",
    ]
    states = {entry["name"]: entry["state"] for entry in converge.info(host.paths)}
    assert states == dict.fromkeys(("shell", "web", "worker"), "running")
    web = host.info("web")
    assert fetch("127.0.0.1", port).endswith("hello\n")
    assert fetch(web["addresses"][0], 80).endswith("hello\n")
    assert host.info("shell")["addresses"] == []
    assert web["addresses"][0] in host.inside("worker", "/etc/hosts")
    assert host.inside("web", "/etc/hostname") == "web\n"
    again = host.run(*specs)
    assert (again.changed, again.actions) == (False, [])


def test_a_changed_option_restarts_its_sandbox_only(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    before = host.pid("a"), host.pid("b")
    result = host.converged(sandbox("a", env={"X": "1"}), sandbox("b"))
    assert host.pid("a") != before[0] and host.pid("b") == before[1]
    assert result.actions == ["a: env changed (restart)", "a: restart: env changed (restart)"]
    assert set(result.diff["before"]) == set(result.diff["after"]) == {"a"}
    (env,) = result.diff["after"]["a"].values()
    assert list(env) == ["X"] and env["X"].startswith("hidden (")


def test_live_options_do_not_restart(host: Deployment) -> None:
    host.converged(sandbox("a", memory="32m", restart_policy="no"))
    pid = host.pid("a")
    changed = sandbox(
        "a", memory="64m", restart_policy="always", labels={"x": "y"}, etc_hosts={"db": "192.0.2.1"}
    )
    host.converged(changed)
    assert host.pid("a") == pid
    assert "192.0.2.1" in host.inside("a", "/etc/hosts")
    result = host.converged(sandbox("a"))
    assert "a: memory 67108864 -> unset" in result.actions
    result = host.converged(sandbox("a", memory_reservation="8m"))
    assert "a: memory_reservation unset -> 8388608" in result.actions
    assert host.run(sandbox("a", memory_reservation="8m")).actions == []
    assert host.pid("a") == pid


def test_a_running_init_cuts_its_log_to_another_size(host: Deployment) -> None:
    """Its digest stays that of its start, so that neither this run nor the next restarts it."""
    noise = ["sh", "-c", "while :; do echo 0123456789; done"]
    host.converged(sandbox("a", command=noise, log_max_size="4m"))
    pid = host.pid("a")
    logs = [Path(path) for path in host.paths.sandbox("a").logs]
    eventually(lambda: logs[0].stat().st_size > 1 << 17)
    result = host.converged(sandbox("a", command=noise, log_max_size="128k"))
    assert result.actions == ["a: log_max_size 4194304 -> 131072"]
    eventually(lambda: all(0 < path.stat().st_size <= 1 << 16 for path in logs))
    assert host.run(sandbox("a", command=noise, log_max_size="128k")).actions == []
    assert host.pid("a") == pid
    changed = host.converged(sandbox("a", command=noise, log_max_size="1m", env={"A": "b"}))
    assert "a: restart: env changed (restart)" in changed.actions
    assert host.run(sandbox("a", command=noise, log_max_size="1m", env={"A": "b"})).actions == []


def test_a_restart_policy_is_taken_over_by_a_running_init(host: Deployment) -> None:
    once = ["sh", "-c", "read line < /tmp/gate"]
    gate = sandbox("a", command=["sh", "-c", f"mkfifo /tmp/gate; {once[2]}; exit 3"])
    host.converged({**gate, "restart_policy": "always"})
    host.converged({**gate, "restart_policy": "no"})
    pidfd = os.pidfd_open(host.pid("a"))
    Path(f"/proc/{host.pid('a')}/root/tmp/gate").write_text("go\n")
    wait_readable(pidfd)
    os.close(pidfd)
    found = host.info("a")
    assert (found["state"], found["exit_code"], found["restarts"]) == ("exited", 3, 0)


def test_recreate_gives_a_fresh_root_and_keeps_the_identity(host: Deployment) -> None:
    host.converged(sandbox("a"))
    upper = Path(host.paths.sandbox("a").upper)
    before = host.info("a")
    Path(f"/proc/{host.pid('a')}/root/mark").touch()
    assert (upper / "mark").exists()
    result = host.run(sandbox("a"), recreate=True)
    assert result.actions == [
        "a: rebuild: recreate (rebuild)",
        "a: set its layer aside as a snapshot, 0 kB in 1 file",
        "a: prepare a new layer and namespaces beside the old",
        "a: switch to the new layer and namespaces (rebuild)",
        "a: restart: rebuilt (restart)",
    ]
    after = host.info("a")
    assert not (upper / "mark").exists() and after["pid"] != before["pid"]
    for key in ("ids", "addresses", "interfaces"):
        assert after[key] == before[key]
    assert host.run(sandbox("a")).actions == []


def test_run_states(host: Deployment) -> None:
    host.converged(sandbox("a", state="present"))
    assert host.info("a")["state"] == "created"
    host.converged(sandbox("a"))
    address, pid = host.info("a")["addresses"], host.pid("a")
    host.converged(sandbox("a", state="present"))
    assert host.pid("a") == pid
    host.converged(sandbox("a", state="stopped"))
    assert runtime.running(host.paths.sandbox("a")) is None
    assert host.info("a")["state"] == "stopped"
    host.converged(sandbox("a"))
    assert host.info("a")["addresses"] == address
    pid = host.pid("a")
    assert host.run(sandbox("a"), restart=True).actions == ["a: restart: asked (restart)"]
    assert host.pid("a") != pid
    result = host.converged(sandbox("a", state="absent"))
    assert "a: remove" in result.actions
    assert host.run(sandbox("a", state="absent")).actions == []


def test_what_ended_is_started_again(host: Deployment) -> None:
    spec = sandbox("a", command=["true"], restart_policy="no")
    host.run(spec)
    pidfd = None
    running = runtime.running(host.paths.sandbox("a"))
    if running:
        pidfd = os.pidfd_open(running.pid)
        wait_readable(pidfd)
        os.close(pidfd)
    assert host.info("a")["state"] == "exited"
    assert host.run(spec).actions == ["a: start"]


def test_lost_pins_are_repaired(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    pin = host.paths.sandbox("a").pin("uts")
    other = host.pid("b")
    mounts.umount(pin)
    result = host.converged(sandbox("a"), sandbox("b"))
    assert result.actions[0] == "a: make namespaces again: some are missing (restart)"
    assert host.pid("b") == other


def test_a_removed_link_and_an_edited_file_are_repaired(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    link = host.info("a")["interfaces"][0]["link"]
    subprocess.run(["ip", "link", "delete", link], check=True)
    result = host.converged(sandbox("a"), sandbox("b"))
    assert [line for line in result.actions if line.startswith("a: plug eth0")]
    Path(host.paths.sandbox("b").etc, "hosts").write_text("192.0.2.1 evil\n")
    result = host.converged(sandbox("a"), sandbox("b"))
    assert result.actions == ["hosts: update 1 file"]
    assert "evil" not in host.inside("b", "/etc/hosts")


def test_neighbours_hosts_follow_without_a_restart(host: Deployment) -> None:
    host.converged(sandbox("a"))
    pid = host.pid("a")
    host.converged(sandbox("b"))
    assert host.pid("a") == pid
    assert host.info("b")["addresses"][0] in host.inside("a", "/etc/hosts")
    result = host.converged(sandbox("a"), purge=True)
    assert "b: remove" in result.actions and " b" not in host.inside("a", "/etc/hosts")


def test_a_port_moves_from_a_removed_sandbox_to_a_new_one(host: Deployment) -> None:
    port = free_port()
    host.converged(sandbox("a", published_ports=[f"{port}:80"]))
    serve = ["sh", "-c", "echo new > /tmp/index.html; exec httpd -f -p 80 -h /tmp"]
    host.converged(sandbox("b", command=serve, published_ports=[f"{port}:80"]), purge=True)
    assert fetch("127.0.0.1", port).endswith("new\n")


def test_changed_clocks_and_addresses_make_new_namespaces(host: Deployment) -> None:
    host.converged(sandbox("a"))
    # proc shows the clocks of who reads, so the sandbox has to.
    clock = ["sh", "-c", "cp /proc/uptime /tmp/uptime; touch /tmp/done; exec sleep 1000000"]
    host.converged(sandbox("a", command=clock, time_offset={"boottime": 864000}))
    eventually(lambda: os.path.exists(f"/proc/{host.pid('a')}/root/tmp/done"))
    assert float(host.inside("a", "/tmp/uptime").split()[0]) > 864000
    asked = [{"name": "default", "ipv4_address": f"{host.prefix}.1.77"}]
    host.converged(sandbox("a", networks=asked))
    assert host.info("a")["addresses"] == [f"{host.prefix}.1.77"]
    host.converged(sandbox("a"))
    assert host.info("a")["addresses"] == [f"{host.prefix}.1.77"]


def test_check_mode_touches_nothing(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    before = tree(host.paths.root)
    specs = [sandbox("a", env={"X": "1"}), sandbox("c")]
    checked = host.run(*specs, purge=True, check=True)
    assert checked.changed and tree(host.paths.root) == before
    done = host.run(*specs, purge=True)
    assert done.actions == checked.actions
    assert done.diff == checked.diff


def test_check_mode_on_a_host_without_anything(host: Deployment) -> None:
    before = tree(host.paths.root)
    checked = host.run(sandbox("a"), check=True)
    assert "a: create from busybox" in checked.actions
    assert tree(host.paths.root) == before


def test_one_that_can_not_start_does_not_stop_the_others(host: Deployment) -> None:
    result = host.run(sandbox("bad", command=["/no/such"]), sandbox("good"))
    assert set(result.failed) == {"bad"} and "/no/such" in result.failed["bad"]
    assert host.info("good")["state"] == "running"
    assert host.info("bad")["state"] == "exited" and host.info("bad")["exit_code"] == 127
    assert set(host.run(sandbox("bad", command=["/no/such"]), sandbox("good")).failed) == {"bad"}
    host.converged(sandbox("bad"), sandbox("good"))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"image": "none"}, "image"),
        ({"command": []}, "command"),
        ({"networks": [{"name": "nowhere"}]}, "networks"),
        ({"networks": [{"name": "default", "ipv4_address": "192.0.2.1"}]}, "ipv4_address"),
        ({"networks": [{"name": "default", "ipv4_address": "PREFIX.0.1"}]}, "ipv4_address"),
        ({"networks": [{"name": "default", "ipv4_address": "PREFIX.0.2"}]}, "ipv4_address"),
        ({"cpuset_cpus": "4000"}, "cpuset_cpus"),
    ],
)
def test_refused_before_any_change(host: Deployment, options: dict, option: str) -> None:
    host.converged(sandbox("first"))
    assert host.info("first")["addresses"] == [f"{host.prefix}.0.2"]
    before = tree(host.paths.sandboxes)
    named = json.loads(json.dumps(options).replace("PREFIX", host.prefix))
    with pytest.raises(SpecError) as caught:
        host.run(sandbox("a"), sandbox("b", **named))
    assert caught.value.option == option
    assert caught.value.hint
    assert tree(host.paths.sandboxes) == before
    assert host.run(sandbox("first")).actions == []


def test_ports_that_are_taken_are_refused(host: Deployment) -> None:
    port = free_port()
    host.converged(sandbox("a", published_ports=[f"{port}:80"]))
    with pytest.raises(SpecError, match="published by sandbox a"):
        host.run(sandbox("b", published_ports=[f"{port}:80"]))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listening = taken.getsockname()[1]
        with pytest.raises(SpecError, match="listener"):
            host.run(sandbox("b", published_ports=[f"{listening}:80"]))
    assert not os.path.exists(host.paths.sandbox("b").state)


def test_after_a_boot_everything_comes_back(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b", state="stopped"))
    Path(f"/proc/{host.pid('a')}/root/mark").touch()
    before = host.info("a")
    host.reboot()
    assert host.info("a")["state"] == "down"
    result = converge.up(host.paths)
    assert not result.failed
    after = host.info("a")
    assert after["state"] == "running" and after["addresses"] == before["addresses"]
    assert Path(f"/proc/{host.pid('a')}/root/mark").exists()
    assert runtime.running(host.paths.sandbox("b")) is None
    assert host.run(sandbox("a"), sandbox("b", state="stopped"), purge=True).actions == []


def test_before_a_shutdown_everything_ends_and_nothing_is_forgotten(host: Deployment) -> None:
    trap = "trap 'echo bye > /bye; exit 0' TERM; while :; do sleep 0.1; done"
    host.converged(sandbox("a", command=["sh", "-c", trap]), sandbox("b", restart_policy="always"))
    layer = Path(host.paths.sandbox("a").upper)
    assert converge.down(host.paths) == {}
    assert [runtime.running(host.paths.sandbox(name)) for name in "ab"] == [None, None]
    assert (layer / "bye").read_text() == "bye\n"
    assert [host.info(name)["wanted"] for name in "ab"] == ["started", "started"]
    assert converge.down(host.paths) == {}
    assert not converge.up(host.paths).failed
    assert [host.info(name)["state"] for name in "ab"] == ["running", "running"]
    launcher = Launcher(host.paths)
    pidfd = os.pidfd_open((launcher.ping() or {})["pid"])
    launcher.quit()
    wait_readable(pidfd)
    os.close(pidfd)
    assert converge.down(host.paths) == {}
    assert [host.info(name)["state"] for name in "ab"] == ["running", "running"]


def test_start_stop_restart_by_name(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    pid = host.pid("b")
    assert converge.lifecycle(host.paths, ["a"], "stop").changed
    assert host.info("a")["wanted"] == "stopped"
    assert converge.lifecycle(host.paths, ["a"], "start").changed
    assert not converge.lifecycle(host.paths, ["a"], "start").changed
    before = host.pid("a")
    assert converge.lifecycle(host.paths, ["a"], "restart").changed
    assert host.pid("a") != before and host.pid("b") == pid
    with pytest.raises(SpecError, match="is no sandbox of this host"):
        converge.lifecycle(host.paths, ["a", "../b"], "stop")


def test_a_dead_launcher_is_noticed_and_replaced(host: Deployment) -> None:
    host.converged(sandbox("a"))
    pid = host.pid("a")
    Launcher(host.paths).quit()
    assert host.run(sandbox("a"), check=True).actions == ["launcher: start"]
    assert not Launcher(host.paths).listening()
    assert host.converged(sandbox("a")).actions == ["launcher: start"]
    assert Launcher(host.paths).listening()
    assert host.pid("a") == pid


def test_hosts_that_can_not_map_ids_get_a_shifted_copy(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "maps_ids", lambda directory: False)
    host.converged(sandbox("a"))
    ids = host.info("a")["ids"]["uid"]
    inside = Path(f"/proc/{host.pid('a')}/root/bin/busybox").stat()
    assert inside.st_uid == ids
    copies = list(Path(host.paths.images).glob("trees/*/shifted-*"))
    assert [copy.name for copy in copies] == [f"shifted-{ids}"]
    monkeypatch.undo()
    assert host.run(sandbox("a")).actions == []
    host.run(sandbox("a", state="absent"))
    assert not copies[0].exists()


def test_no_ids_are_left_behind(host: Deployment) -> None:
    host.converged(sandbox("a"), sandbox("b"))
    host.converged(sandbox("b"), purge=True)
    files = observe_ids(host.paths)
    assert "a" not in files.uid.owned() and len(files.gid.owned()["b"]) == 1


def test_the_runtime_stays_while_there_are_sandboxes(host: Deployment) -> None:
    host.converged(sandbox("a", command=IDLE))
    with pytest.raises(SandlotError, match="there are sandboxes on this host: a"):
        runtime_of_host.absent(host.paths, check=False)
    assert host.info("a")["state"] == "running"


def test_an_upgrade_leaves_sandboxes_alone(host: Deployment) -> None:
    host.converged(sandbox("a"))
    launcher = Launcher(host.paths)
    before = host.pid("a"), (launcher.ping() or {})["pid"]
    installed = Path(host.paths.lib, "sandlot", "__init__.py")
    content = installed.read_bytes()
    store.replace(str(installed), content + b"# older\n")
    outcome = runtime_of_host.present(host.paths, check=True)
    assert outcome.changed and installed.read_bytes() != content
    assert runtime_of_host.present(host.paths, check=False).actions == outcome.actions
    assert installed.read_bytes() == content
    assert runtime_of_host.present(host.paths, check=False).actions == []
    eventually(lambda: launcher.ping() is not None)
    assert (host.pid("a"), (launcher.ping() or {})["pid"]) == before
    assert host.run(sandbox("a")).actions == []
    assert host.run(sandbox("a"), restart=True).actions == ["a: restart: asked (restart)"]


def test_names_that_shadow_others_are_kept_where_they_exist(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="^name: 'all' would shadow a name of hosts files"):
        host.run(sandbox("web"), sandbox("all"), check=True)
    with monkeypatch.context() as earlier:
        earlier.setattr(resolve, "check_new", lambda name: None)
        host.converged(sandbox("all", networks=[]))
    host.converged(sandbox("all", networks=[], labels={"a": "b"}))
    assert host.info("all")["state"] == "running"
    host.converged(sandbox("all", networks=[], state="stopped"))
    host.run({"name": "all", "state": "absent"})
    assert converge.info(host.paths) == []
