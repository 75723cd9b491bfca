# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""network_mode on the real kernel: whose namespace, what is seen of it, what it is safe from."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import IDLE, Deployment, eventually, needs_root, sandbox, tree
from netmode_fixtures import named_netns, netns, output, pins, remake, run_inside
from sandboxes import Host
from sandlot import converge
from sandlot.errors import SpecError
from sandlot.launcher.client import Launcher

pytestmark = needs_root

HOST_MODE = {"network_mode": "host", "allow_host_network": True}
SERVE = ["sh", "-c", "echo db > /tmp/index.html; exec httpd -f -p 127.0.0.1:80 -h /tmp"]
GET = ["wget", "-q", "-O", "-", "http://127.0.0.1/"]


@pytest.fixture
def pinned(host: Deployment) -> Iterator[str]:
    """The path of a network namespace that is not sandlot's."""
    with named_netns(host) as path:
        yield path


def got(host: Deployment, name: str) -> str:
    """What the server says on its loopback interface, once it listens."""
    eventually(lambda: run_inside(host, name, *GET).returncode == 0)
    return output(host, name, *GET)


def mounts(host: Deployment, name: str) -> list[list[str]]:
    found = []
    for line in Path(f"/proc/{host.pid(name)}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        found.append([*before.split()[4:6], after.split()[0]])
    return sorted(found)


def listing(host: Deployment) -> list[str]:
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    command = [host.paths.command, "list"]
    return subprocess.check_output(command, env=environment, text=True).splitlines()


def links(host: Deployment, name: str) -> list[str]:
    return sorted(os.listdir(f"/proc/{host.pid(name)}/root/sys/class/net"))


def everything(path: str) -> list[dict[str, Any]]:
    return [
        sandbox("db", command=SERVE),
        sandbox("bridge"),
        sandbox("none", network_mode="none"),
        sandbox("shared", network_mode="container:db"),
        sandbox("pin", network_mode=f"ns:{path}"),
        sandbox("host", **HOST_MODE),
    ]


def test_each_mode_is_in_its_namespace(host: Deployment, pinned: str) -> None:
    host.converged(*everything(pinned))
    own = os.stat("/proc/self/ns/net").st_ino
    assert netns(host, "host") == own
    assert netns(host, "pin") == os.stat(pinned).st_ino
    assert netns(host, "shared") == netns(host, "db")
    assert len({netns(host, name) for name in ("bridge", "none", "db", "pin", "host")}) == 5
    for name in ("shared", "pin", "host"):
        assert pins(host, name) == {"user", "uts", "ipc"}
        assert host.info(name)["addresses"] == []
    for name in ("bridge", "none", "db"):
        assert pins(host, name) == {"user", "net", "uts", "ipc"}
    modes = {entry["name"]: entry["network_mode"] for entry in converge.info(host.paths)}
    assert modes == {
        "bridge": "bridge",
        "db": "bridge",
        "none": "none",
        "shared": "container:db",
        "pin": f"ns:{pinned}",
        "host": "host",
    }
    listed = {line.split()[0]: line.split()[3] for line in listing(host)[1:]}
    assert listed == {
        **{name: mode for name, mode in modes.items() if name in ("shared", "pin", "host")},
        **{name: host.info(name)["addresses"][0] for name in ("bridge", "db")},
        "none": "-",
    }
    relaxed = {entry["name"]: entry["relaxed"] for entry in converge.info(host.paths)}
    assert {name: lines for name, lines in relaxed.items() if lines} == {
        "pin": [f"network_mode: ns:{pinned}"],
        "host": ["network_mode: host"],
    }


def test_sysfs_shows_the_links_of_the_namespace_and_nothing_else_of_the_host(
    host: Deployment, pinned: str
) -> None:
    host.converged(*everything(pinned))
    assert links(host, "shared") == links(host, "db") == ["eth0", "lo"]
    assert links(host, "none") == links(host, "pin") == ["lo"]
    eventually(lambda: {name for _, name in socket.if_nameindex()} == set(links(host, "host")))
    for name in ("none", "shared", "pin", "host"):
        assert mounts(host, name) == mounts(host, "bridge")
        assert not list(Path(f"/proc/{host.pid(name)}/root/sys/firmware").iterdir())
        done = run_inside(host, name, "sh", "-c", "echo 9 >/sys/class/net/lo/tx_queue_len")
        assert done.returncode and "Read-only" in done.stderr


def test_a_shared_network_is_one(host: Deployment, pinned: str) -> None:
    host.converged(*everything(pinned))
    assert output(host, "shared", "ip", "-4", "address") == output(
        host, "db", "ip", "-4", "address"
    )
    assert got(host, "db") == got(host, "shared") == "db\n"
    # Control: the loopback interface of any other sandbox is another one.
    for name in ("bridge", "none", "pin"):
        assert run_inside(host, name, *GET).returncode
    address = host.info("db")["addresses"][0]
    for name in ("db", "shared", "bridge"):
        lines = host.inside(name, "/etc/hosts").splitlines()
        (line,) = (line for line in lines if line.startswith(address))
        assert {"db", "shared"} == set(line.split()[1:])
    assert output(host, "shared", "hostname") == "shared\n"


ATTACKS = {
    "address": ["ip", "address", "add", "127.77.77.77/32", "dev", "lo"],
    "link": ["ip", "link", "add", "sx-attack", "type", "bridge"],
    "raw": ["ping", "-I", "lo", "-c", "1", "-W", "5", "127.0.0.1"],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_granted_capabilities_have_no_effect_on_a_network_of_others(
    host: Deployment, pinned: str, attack: str
) -> None:
    """Its owner is another user namespace; the same sandbox with its own network is the control."""
    granted = {"capabilities": ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]}
    specs = [{**spec, **granted} for spec in everything(pinned) if spec["name"] != "db"]
    host.converged(sandbox("db"), *specs)
    subprocess.run(
        ["ip", "netns", "exec", os.path.basename(pinned), "ip", "link", "set", "lo", "up"]
    )
    for name in ("shared", "pin", "host"):
        done = run_inside(host, name, *ATTACKS[attack])
        assert done.returncode, (name, done.stdout)
        assert "ermitted" in done.stderr or "denied" in done.stderr, (name, done.stderr)
    for name in ("bridge", "none"):
        output(host, name, *ATTACKS[attack])


def test_low_ports_of_the_host_stay_the_hosts(host: Deployment) -> None:
    granted = {"capabilities": ["NET_BIND_SERVICE"]}
    host.converged(sandbox("host", **HOST_MODE, **granted), sandbox("bridge"))
    listen = ["httpd", "-p", "127.0.0.1:79", "-h", "/tmp"]
    done = run_inside(host, "host", *listen)
    assert done.returncode and "denied" in done.stderr
    output(host, "bridge", *listen)


REACHES = """
import socket, sys
family, address = sys.argv[1:]
with socket.socket(getattr(socket, family), socket.SOCK_STREAM) as sock:
    host, _, port = address.partition(":")
    sock.connect("\\0" + address if family == "AF_UNIX" else (host, int(port)))
"""


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_what_the_hosts_network_opens_is_open_nowhere_else(sandbox_host: Host, family: str) -> None:
    """Abstract sockets and the loopback interface belong to the network namespace."""
    joined = {"netns": {"mode": "host", "path": "/proc/self/ns/net"}, "sysctls": {}}
    image = {"lower": sandbox_host.python_image}
    with socket.socket(getattr(socket, family), socket.SOCK_STREAM) as listener:
        address = f"sandlot-test-{os.getpid()}"
        listener.bind(f"\0{address}" if family == "AF_UNIX" else ("127.0.0.1", 0))
        listener.listen()
        if family == "AF_INET":
            address = ":".join(map(str, listener.getsockname()))
        own = sandbox_host.started("own", IDLE, **image)
        opened = sandbox_host.started("opened", IDLE, **image, **joined)
        done = own.python(REACHES, family, address)
        assert done.code == 1 and b"ConnectionRefusedError" in done.stderr
        assert opened.python(REACHES, family, address).code == 0


def test_settings_of_a_network_of_others_stay_as_they_are(host: Deployment, pinned: str) -> None:
    file = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    before = file.read_text()
    host.converged(*everything(pinned))
    assert file.read_text() == before
    asked = ["ip", "netns", "exec", os.path.basename(pinned), "cat", str(file)]
    assert subprocess.check_output(asked, text=True) == before
    assert output(host, "db", "cat", str(file)) == "0\n"


def test_each_change_of_mode_is_noticed_and_in_force(host: Deployment, pinned: str) -> None:
    modes = [
        {},
        {"network_mode": "none"},
        {"network_mode": "container:db"},
        {"network_mode": f"ns:{pinned}"},
        HOST_MODE,
        {"network_mode": "bridge"},
    ]
    seen = []
    for mode in modes:
        specs = [sandbox("db"), sandbox("web", **mode)]
        checked = host.run(*specs, check=True)
        done = host.run(*specs)
        assert not done.failed and checked.actions == done.actions and checked.diff == done.diff
        assert host.run(*specs).actions == []
        seen.append(netns(host, "web"))
        if len(seen) > 1:
            assert "web: restart: namespaces made again (restart)" in done.actions
    assert seen[2:5] == [
        netns(host, "db"),
        os.stat(pinned).st_ino,
        os.stat("/proc/self/ns/net").st_ino,
    ]
    assert host.info("web")["addresses"]


def test_a_lost_pin_is_noticed_in_each_mode(host: Deployment) -> None:
    specs = [sandbox("db"), sandbox("shared", network_mode="container:db")]
    host.converged(*specs)
    subprocess.run(["umount", host.paths.sandbox("shared").pin("uts")], check=True)
    result = host.converged(*specs)
    assert result.actions[0] == "shared: make namespaces again: some are missing (restart)"


def test_a_crashed_sharer_is_revived_in_the_same_network(host: Deployment) -> None:
    specs = [sandbox("db"), sandbox("shared", network_mode="container:db")]
    host.converged(*specs)
    before, pid = netns(host, "shared"), host.pid("shared")
    host.kill("shared")
    eventually(lambda: host.info("shared")["pid"] not in (None, pid))
    assert netns(host, "shared") == before == netns(host, "db")


def test_who_shares_follows_a_network_that_is_made_again(host: Deployment) -> None:
    shared = sandbox("shared", network_mode="container:db")
    host.converged(sandbox("db"), shared, sandbox("other"))
    other = host.pid("other")
    result = host.converged(sandbox("db", hostname="x"), shared, sandbox("other"))
    assert "shared: restart: namespaces of db made again (restart)" in result.actions
    assert netns(host, "shared") == netns(host, "db") and host.pid("other") == other
    # Also when the run is about its partner only.
    checked = host.run(sandbox("db", hostname="y"), check=True)
    result = host.converged(sandbox("db", hostname="y"))
    assert checked.actions == result.actions
    assert "shared: restart: namespaces of db made again (restart)" in result.actions
    assert netns(host, "shared") == netns(host, "db")


def test_who_was_left_in_an_old_network_is_found(host: Deployment) -> None:
    """As by a run that was killed before it restarted who shares."""
    specs = [sandbox("db"), sandbox("shared", network_mode="container:db")]
    host.converged(*specs)
    launcher = Launcher(host.paths)
    assert not launcher.stop(["db"]) and not launcher.destroy(["db"])
    assert not launcher.create(["db"])
    assert netns(host, "shared") != os.stat(host.paths.sandbox("db").pin("net")).st_ino
    result = host.converged(*specs)
    assert "shared: restart: its network namespace is another now (restart)" in result.actions
    assert netns(host, "shared") == netns(host, "db")


def test_a_stopped_partner_keeps_its_network(host: Deployment) -> None:
    shared = sandbox("shared", network_mode="container:db")
    host.converged(sandbox("db"), shared)
    pid = host.pid("shared")
    host.converged(sandbox("db", state="stopped"), shared)
    assert host.pid("shared") == pid
    assert "eth0" in output(host, "shared", "ip", "-4", "route")
    host.converged(sandbox("db"), shared)
    assert host.pid("shared") == pid and netns(host, "db") == netns(host, "shared")


def test_a_used_network_is_not_removed(host: Deployment) -> None:
    shared = sandbox("shared", network_mode="container:db")
    host.converged(sandbox("db"), shared)
    before = tree(host.paths.sandboxes)
    for attempt in (
        lambda: host.run(sandbox("db", state="absent")),
        lambda: host.run(shared, purge=True),
        lambda: host.run(sandbox("db", state="absent"), check=True),
    ):
        with pytest.raises(SpecError, match="sandbox shared shares its network"):
            attempt()
    assert tree(host.paths.sandboxes) == before
    host.converged(sandbox("db", state="absent"), sandbox("shared", state="absent"))
    assert converge.info(host.paths) == []


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([{"network_mode": "container:nobody"}], "names no sandbox of this host"),
        (
            [{"network_mode": "none"}, {"network_mode": "container:first"}],
            "",
        ),
        (
            [{"network_mode": "container:second"}, {"network_mode": "container:first"}],
            "without a network of its own",
        ),
        ([HOST_MODE, {"network_mode": "container:first"}], "without a network of its own"),
    ],
)
def test_partners_and_cycles(host: Deployment, specs: list[dict[str, Any]], says: str) -> None:
    named = [sandbox(name, **spec) for name, spec in zip(("first", "second"), specs)]
    if not says:
        host.converged(*named)
        return
    before = tree(host.paths.sandboxes)
    with pytest.raises(SpecError, match=says) as caught:
        host.run(*named)
    assert caught.value.option == "network_mode" and caught.value.hint
    assert tree(host.paths.sandboxes) == before


def test_a_partner_may_not_give_up_its_network(host: Deployment) -> None:
    host.converged(sandbox("db"), sandbox("shared", network_mode="container:db"))
    with pytest.raises(SpecError, match="of sandbox shared names one without a network"):
        host.run(sandbox("db", **HOST_MODE))


def bound(source: str, target: Path) -> str:
    target.touch()
    subprocess.run(["mount", "--bind", source, target], check=True)
    return str(target)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("missing", "No such file"),
        ("file", "is no network namespace"),
        ("directory", "is no network namespace"),
        ("fifo", "is no network namespace"),
        ("/dev/null", "is no network namespace"),
        ("uts", "is no network namespace"),
        ("host", "is the host's own network namespace"),
        ("sandbox", "use container:db"),
    ],
)
def test_only_foreign_network_namespaces_are_joined(
    host: Deployment, tmp_path: Path, place: str, says: str
) -> None:
    host.converged(sandbox("db"))
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    own = "/proc/self/ns"
    paths = {"directory": str(tmp_path), "sandbox": host.paths.sandbox("db").pin("net")}
    if place in ("uts", "host"):
        kind = "uts" if place == "uts" else "net"
        paths[place] = bound(f"{own}/{kind}", tmp_path / place)
    path = paths.get(place, str(tmp_path / place))
    before = tree(host.paths.sandboxes)
    try:
        with pytest.raises(SpecError) as caught:
            host.run(sandbox("web", network_mode=f"ns:{path}"))
        assert says in str(caught.value) and caught.value.hint
        assert caught.value.option == "network_mode"
        assert tree(host.paths.sandboxes) == before
    finally:
        if place in ("uts", "host"):
            subprocess.run(["umount", path], check=True)


def test_another_namespace_at_the_same_path_is_joined_by_the_next_run(
    host: Deployment, pinned: str
) -> None:
    spec = sandbox("web", network_mode=f"ns:{pinned}")
    host.converged(spec)
    remake(pinned)
    assert netns(host, "web") != os.stat(pinned).st_ino
    result = host.converged(spec)
    assert result.actions == ["web: restart: its network namespace is another now (restart)"]
    assert netns(host, "web") == os.stat(pinned).st_ino


def test_a_path_that_has_become_the_hosts_is_not_joined_at_a_start(
    host: Deployment, tmp_path: Path, pinned: str
) -> None:
    """A start from the record alone, without the checks of a deployment."""
    place = tmp_path / "net"
    bound(pinned, place)
    try:
        host.converged(sandbox("web", network_mode=f"ns:{place}"))
        subprocess.run(["umount", place], check=True)
        bound("/proc/self/ns/net", place)
        result = converge.lifecycle(host.paths, ["web"], "restart")
        assert "is the host's own network namespace" in result.failed["web"]
        assert host.info("web")["state"] == "stopped"
    finally:
        subprocess.run(["umount", place], check=True)


def test_after_a_boot_everybody_finds_a_network_or_says_why_not(
    host: Deployment, pinned: str
) -> None:
    host.converged(*everything(pinned))
    host.reboot()
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    try:
        result = converge.up(host.paths)
    finally:
        subprocess.run(["umount", "/run/netns"], check=True)
    assert set(result.failed) == {"pin"}
    assert pinned in result.failed["pin"] and "ip netns add" in result.failed["pin"]
    assert netns(host, "shared") == netns(host, "db")
    assert got(host, "shared") == "db\n"
    assert not converge.up(host.paths).failed
    assert netns(host, "pin") == os.stat(pinned).st_ino


def test_a_sharer_alone_is_told_whom_to_start(host: Deployment) -> None:
    host.converged(sandbox("db"), sandbox("shared", network_mode="container:db"))
    host.reboot()
    result = converge.lifecycle(host.paths, ["shared"], "start")
    assert "start sandbox db first" in result.failed["shared"]
    result = converge.lifecycle(host.paths, ["db", "shared"], "start")
    assert not result.failed and netns(host, "shared") == netns(host, "db")
