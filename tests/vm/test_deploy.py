# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A deploy over SSH by a user with sudo, and what it left running on the host."""

from __future__ import annotations

from guest import Guest, finish
from hosts import (
    DEMO,
    DEPLOY,
    NAMES,
    SUITES,
    SUITES_CUT,
    changed,
    each,
    fetch,
    has_values,
    until,
)


def test_deploy(guest: Guest, suite: str, deployed: str) -> None:
    # Where the deploys before it were cut off, a boot may have done the rest.
    assert changed(deployed) > 0 or suite in SUITES[SUITES_CUT]
    assert each(guest, "state") == dict.fromkeys(NAMES, "running")
    assert fetch(guest) == "hello"


def test_the_host_is_a_real_one(guest: Guest, suite: str, deployed: str) -> None:
    assert f"VERSION_CODENAME={suite}" in guest.output("cat /etc/os-release")
    assert guest.output("stat -f -c %T /sys/fs/cgroup") == "cgroup2fs"
    assert guest.root("readlink /proc/1/exe").endswith("/systemd")


def test_a_second_run_changes_nothing(guest: Guest, deployed: str) -> None:
    assert changed(finish(guest.play(DEPLOY, DEMO))) == 0


def test_secrets_are_in_memory_and_encrypted(guest: Guest, deployed: str) -> None:
    has_values(guest, "the-first-deploy")


def test_the_service_tells_the_truth(guest: Guest, deployed: str) -> None:
    status = guest.output("systemctl status --no-pager sandlot")
    assert "active (running)" in status
    assert guest.output("systemctl is-enabled sandlot-up") == "enabled"
    pid = guest.output("systemctl show -P MainPID sandlot")
    assert pid in status
    assert guest.root(f"readlink /proc/{pid}/exe").startswith("/usr/bin/python3")
    guest.root(f"kill -9 {pid}")
    main = "systemctl show -P MainPID sandlot"
    until(lambda: guest.output(main) not in ("0", pid), "the launcher is started again")


def test_the_journal_has_what_sandboxes_write(guest: Guest, deployed: str) -> None:
    """Under the name of each."""
    entries = "journalctl --no-pager -o cat -t sandlot"
    assert "tried" in guest.root(f"{entries}/shell").splitlines()
    worker = guest.root(f"{entries}/worker")
    assert "UTC" in worker
    assert "tried" not in worker


def test_sandboxes_outlive_session_and_launcher(guest: Guest, deployed: str) -> None:
    pids = each(guest, "pid")
    # Positive control: what the session itself leaves in the background ends with it.
    guest.ssh("setsid --fork sleep 7777 > /dev/null 2>&1 < /dev/null")
    guest.hang_up()
    guest.ssh("while pgrep -u deploy -x sleep > /dev/null; do sleep 0.2; done")
    assert each(guest, "pid") == pids
    guest.root("systemctl restart sandlot")
    assert each(guest, "pid") == pids
    assert guest.output("systemctl is-active sandlot") == "active"
