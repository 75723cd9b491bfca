# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Limits as version 2 of cgroups enforces them, below a systemd that has cgroups of its own."""

from __future__ import annotations

import shlex

from guest import Guest
from hosts import CGROUP, each, has_values, inspected

_TOO_MUCH = 'sandlot exec shell -- sh -c "head -c 100m /dev/zero | tail | wc -c"'
# CPU time in microseconds and seconds gone by, once a busy loop has begun and at times after that.
_BUSY = f"""
usage() {{ sed -n 's/usage_usec //p' {CGROUP}/worker/cpu.stat; }}
now() {{ echo $(usage) $(cut -d ' ' -f 1 /proc/uptime); }}
enough=$(($(usage) + 200000))
sandlot exec worker -- timeout 20 sh -c 'while :; do :; done' > /dev/null 2>&1 &
until [ $(usage) -gt $enough ]; do sleep 0.1; done
now; for window in 1 2 3; do sleep 2; now; done; kill $!; wait
"""
_FORKS = "sandlot exec web -- sh -c 'for i in $(seq 50); do sleep 2 & done; wait'"
# Connections that nobody reads, by a process of the host in the cgroup of a sandbox.
_SOCKETS = """
import contextlib, pathlib, socket, sys
group = pathlib.Path(sys.argv[1])
(group / "cgroup.procs").write_text("0")
kept, sent = [], 0
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(100)
for _ in range(8):
    near = socket.create_connection(listener.getsockname())
    kept += [near, listener.accept()[0]]
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += near.send(bytes(1 << 16))
print(sent, dict(line.split() for line in open(group / "memory.stat"))["sock"])
"""


def _events(guest: Guest, name: str, file: str) -> dict[str, int]:
    lines = guest.root(f"cat {CGROUP}/{name}/{file}").splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


def _kills(guest: Guest) -> dict[str, int]:
    found = guest.json("sandlot top --format json")
    return {entry["name"]: int(entry["oom_kills"]) for entry in found}


def _pid(guest: Guest, name: str) -> int:
    return int(inspected(guest, [name])[name]["pid"])


def test_a_memory_kill_is_counted_and_reported(guest: Guest, deployed: str) -> None:
    before, pid = _kills(guest), _pid(guest, "shell")
    guest.root(f"{_TOO_MUCH} || true")
    # The one that took too much was killed, not its sandbox and nobody else's.
    assert _kills(guest) == {**before, "shell": before["shell"] + 1}
    assert _events(guest, "shell", "memory.events")["oom_kill"] == before["shell"] + 1
    assert _pid(guest, "shell") == pid


def test_unread_sockets_count_as_memory(guest: Guest, deployed: str) -> None:
    """Version 1 has a limit of their own (test_cgroups_kernel.py)."""
    words = guest.root(f"python3 -c {shlex.quote(_SOCKETS)} {CGROUP}/worker").split()
    sent, charged = map(int, words)
    assert 4 << 20 < sent <= charged <= 64 << 20


def test_the_cpu_quota_holds(guest: Guest, deployed: str) -> None:
    assert 0.3 < _cpus_used(guest) < 0.6
    assert _events(guest, "worker", "cpu.stat")["nr_throttled"] > 0


def _cpus_used(guest: Guest) -> float:
    """CPUs that a busy loop got, by the kernel's own account and clock.

    The most of three windows: the guest has one processor, and its own services want it at times.
    """
    lines = guest.root(_BUSY).splitlines()
    looks = [[float(word) for word in line.split()] for line in lines]
    windows = [(b[0] - a[0]) / (b[1] - a[1]) / 1e6 for a, b in zip(looks, looks[1:])]
    assert len(windows) == 3
    return max(windows)


def test_the_number_of_processes_is_bounded(guest: Guest, deployed: str) -> None:
    before = _events(guest, "web", "pids.events")["max"]
    guest.root(f"{_FORKS} || true")
    assert _events(guest, "web", "pids.events")["max"] > before
    assert int(guest.root(f"cat {CGROUP}/web/pids.max")) == 32


def test_limits_change_while_it_runs(guest: Guest, raised: tuple[int, dict[str, int]]) -> None:
    """And without the limit the same loop gets more, so that the quota's test means something."""
    changes, pids = raised
    assert changes == 1
    assert guest.root(f"cat {CGROUP}/worker/memory.max") == str(96 << 20)
    assert _cpus_used(guest) > 0.65
    assert each(guest, "pid") == pids


def test_files_and_secrets_change_while_it_runs(
    guest: Guest, raised: tuple[int, dict[str, int]]
) -> None:
    """In the same run; the workload has read the file again."""
    has_values(guest, "a-later-one")
    assert "reloaded\nfile-of-a-later-one\n" in guest.root("sandlot logs worker")


def test_systemd_leaves_our_cgroups_alone(guest: Guest, deployed: str) -> None:
    guest.root("systemctl daemon-reload")
    guest.root("systemctl set-property --runtime cron.service CPUWeight=50 CPUQuota=80%")
    guest.root("systemctl revert cron.service")
    guest.root("systemctl daemon-reexec")
    assert guest.root(f"cat {CGROUP}/web/cpu.max") == "50000 100000"
    assert guest.root(f"cat {CGROUP}/web/pids.max") == "32"
    controllers = guest.root(f"cat {CGROUP}/cgroup.subtree_control").split()
    assert {"cpu", "cpuset", "memory", "pids"} <= set(controllers)


def test_a_frozen_sandbox_is_stopped(guest: Guest, deployed: str) -> None:
    pid = _pid(guest, "web")
    guest.root(f"echo 1 > {CGROUP}/web/cgroup.freeze")
    assert _events(guest, "web", "cgroup.events")["frozen"] == 1
    # Positive control: frozen as it is, it takes no notice of being asked to end.
    guest.root(f"kill -TERM {pid}; sleep 0.2; test -d /proc/{pid}")
    guest.root("timeout 100 sandlot stop web")
    assert guest.root(f"test ! -d /proc/{pid} && echo gone") == "gone"
    guest.root("sandlot start web")
    assert inspected(guest, ["web"])["web"]["state"] == "running"


def test_programs_read_their_own_limits(guest: Guest, deployed: str) -> None:
    """One mount of version 2, in the sandbox's own cgroup namespace."""
    look = "cd /sys/fs/cgroup; cat cpu.max pids.max cgroup.procs; echo 1 >cgroup.procs; mkdir x"
    argv = shlex.quote(f"grep cgroup2 /proc/self/mountinfo; {look}")
    lines = guest.root(f"sandlot exec web -- sh -c {argv} 2>&1 || true").splitlines()
    assert lines[0].split()[3:6] == ["/", "/sys/fs/cgroup", "ro,nosuid,nodev,noexec,relatime"]
    assert lines[1:4] == ["50000 100000", "32", "1"]
    assert len([line for line in lines if line.endswith("Read-only file system")]) == 2
    shown = inspected(guest, ["web"])["web"]["cgroups_shown"]
    assert {"cpu", "memory", "pids"} <= set(shown)
    findings = guest.json("sandlot doctor --format json || true")
    assert [each["status"] for each in findings if each["name"] == "cgroups inside"] == ["ok"]


def test_a_job_has_its_limits_and_leaves_nothing(guest: Guest, deployed: str) -> None:
    look = shlex.quote("cd /sys/fs/cgroup; cat cpu.max pids.max memory.max")
    limits = "--memory 64m --cpus 0.5 --pids-limit 23"
    lines = guest.root(f"sandlot run --image busybox {limits} -- sh -c {look}").splitlines()
    assert lines == ["50000 100000", "23", str(64 << 20)]
    bomb = shlex.quote("head -c 200m /dev/zero | tail | wc -c")
    words = f"sandlot run --image busybox {limits} -- sh -c {bomb} || true"
    assert guest.root(words) != str(200 << 20)
    left = f"find {CGROUP} /var/lib/sandlot -name '.job*' | wc -l"
    assert guest.root(left) == "0"


# A device of every sandbox, with and without a rule that leaves it out.
_DEVICES = """
import subprocess, sys
sys.path.insert(0, "/usr/local/lib/sandlot")
from sandlot.kernel import device_rules
group = device_rules.place([sys.argv[1]])
def opens():
    command = ["sandlot", "exec", "shell", "--", "head", "-c", "1", "/dev/zero"]
    return subprocess.run(command, capture_output=True).returncode == 0
some = [rule for rule in device_rules.USUAL if (rule.major, rule.minor) != (1, 5)]
results = [opens()]
device_rules.allow_only(group, some)
results += [opens(), device_rules.are_in_force(group, some)]
device_rules.allow_everything(group)
print(*results, opens(), device_rules.are_any(group))
"""


def test_a_program_of_the_cgroup_decides_about_devices(guest: Guest, deployed: str) -> None:
    answer = guest.root(f"python3 -c {shlex.quote(_DEVICES)} {CGROUP}/shell").split()
    assert answer == ["True", "False", "True", "True", "False"]
