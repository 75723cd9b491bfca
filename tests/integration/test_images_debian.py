# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images of Debian's packages from this machine's mirror: made, set up, run; apt inside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isolation
import pytest
from converge_fixtures import (
    Deployment,
    deployed,
    eventually,
    fetch,
    free_port,
    needs_root,
    sandbox,
)
from debian_mirror import debian, needs_tools
from image_fixtures import BUSYBOX, output, prepare, run
from python_hosts import PACKAGES, run_modules
from sandlot import images
from sandlot.converge import throwaway
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.images import debootstrap, identity
from sandlot.images.model import Job
from sandlot.plan import apply_all

pytestmark = [needs_root, needs_tools, pytest.mark.slow]

SUITES = ("bullseye", "bookworm", "trixie", "sid")
# As docs/images.md has them.
MINIMUM = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
WITHOUT = {
    "CHOWN": "chown to _apt:root of directory /var/lib/apt/lists/partial failed",
    "DAC_OVERRIDE": "fopen (13: Permission denied)",
    "FOWNER": "Sub-process /usr/bin/dpkg returned an error code",
    "SETGID": "setgroups 65534 failed",
    "SETUID": "seteuid 42 failed",
}
# cron has a group of its own and a program that is setgid to it, man-db files of another user.
INSTALL = "apt-get update -q && apt-get install -qy --no-install-recommends cron man-db"


def base() -> dict[str, Any]:
    """The image that most of these tests use, which takes many seconds to make."""
    return debian("debian", packages=["netbase"])


@pytest.fixture(scope="module")
def host() -> Iterator[Deployment]:
    with isolation.outside(), deployed() as deployment:
        prepare(deployment, BUSYBOX, base())
        yield deployment


def made(host: Deployment, name: str) -> Path:
    return Path(images.lookup(host.paths, name).root)


# -- making one


@pytest.mark.parametrize("suite", SUITES)
def test_suites(host: Deployment, suite: str) -> None:
    # The oldest Python that modules run on; `make pythons` has the others.
    oldest = suite == "bullseye"
    raw = debian("suite", suite, packages=["netbase", *(PACKAGES if oldest else ())])
    image = "debian" if suite == base()["suite"] else "suite"
    prepare(host, BUSYBOX, base(), *([raw] if image == "suite" else ()))
    assert_clean(made(host, image))
    host.converged(sandbox("s", image=image))
    assert "\nID=debian\n" in output(host, "s", "cat", "/etc/os-release")
    assert output(host, "s", "apt-get", "--version").startswith("apt ")
    version = output(host, "s", "cat", "/etc/debian_version")
    assert version.strip().endswith("/sid") == (suite == "sid")
    assert output(host, "s", "stat", "-c", "%u:%g %a", "/usr/bin/passwd") == "0:0 4755\n"
    assert "http" in output(host, "s", "cat", "/etc/services")
    host.run(sandbox("s", state="absent"))
    if oldest:
        run_modules(made(host, "suite"), "3.9")


def assert_clean(root: Path) -> None:
    """Nothing of this host and of the moment, and nothing that was mounted meanwhile."""
    for name in ("etc/hostname", "etc/resolv.conf", "etc/.pwd.lock"):
        assert not (root / name).exists(), name
    for path in (root / name for name in identity.MACHINE_IDS):
        assert not path.exists() or path.read_bytes() == b"", path
    for name in ("dev", "proc", "sys", "tmp", "var/lib/apt/lists", "var/cache/apt/archives"):
        assert list((root / name).iterdir()) == [], name
    logs = [path for path in (root / "var/log").rglob("*.log")]
    assert logs == []
    assert (root / "var/lib/dpkg/status").stat().st_size > 0
    kinds = {path.lstat().st_mode & 0o170000 for path in root.rglob("*")}
    assert kinds <= {0o100000, 0o040000, 0o120000}


def test_with_the_other_tool(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debootstrap, "TOOLS", ("debootstrap",))
    with pytest.raises(SpecError, match="variant: 'apt' is one of mmdebstrap only"):
        prepare(host, BUSYBOX, debian("other", variant="apt", revision="1"))
    prepare(host, BUSYBOX, debian("other", packages=["netbase"], revision="1"))
    assert_clean(made(host, "other"))
    assert not (made(host, "other") / "debootstrap").exists()
    host.converged(sandbox("s", image="other"))
    assert "VERSION_CODENAME=bookworm\n" in output(host, "s", "cat", "/etc/os-release")
    host.run(sandbox("s", state="absent"))


def test_progress_is_told_while_it_is_made(host: Deployment) -> None:
    phases: list[str] = []
    spec = images.normalise(debian("told", "nosuchsuite"))
    scratch = Path(host.paths.root, "scratch")
    for path in (scratch, scratch / "root"):
        path.mkdir()
    root = str(scratch / "root")
    job = Job(spec, "0", root, str(scratch), lambda phase, *_: phases.append(phase))
    with pytest.raises(HostError):
        debootstrap.build(job)
    assert "running apt-get update" in phases


def test_a_failure_shows_the_last_lines_and_leaves_nothing(host: Deployment) -> None:
    before = everything(host)
    with pytest.raises(HostError, match=r"mmdebstrap ended with status \d+:\n(.*\n)*.*nosuchsuite"):
        prepare(host, BUSYBOX, base(), debian("bad", "nosuchsuite"))
    assert everything(host) == before


def everything(host: Deployment) -> list[str]:
    top = host.paths.images
    return sorted([*os.listdir(top), *os.listdir(f"{top}/trees"), *os.listdir(host.paths.run)])


def test_without_a_tool(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debootstrap, "TOOLS", ("nosuchtool",))
    with pytest.raises(HostError, match="neither .*; install one .*apt install mmdebstrap"):
        prepare(host, BUSYBOX, debian("bad", revision="2"))
    assert debootstrap.packages() == ["mmdebstrap"]


def test_where_no_program_may_run(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", tmp_path], check=True)
    try:
        spec = images.normalise(debian("bad"))
        with pytest.raises(HostError, match="where none may run; mount it without noexec"):
            debootstrap.build(Job(spec, "0", str(tmp_path), str(tmp_path), lambda *_: None))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_environments_proxy_is_asked(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(HostError, match=r"127\.0\.0\.1:9|127\.0\.0\.1 9"):
        prepare(host, BUSYBOX, debian("bad", revision="3"))


def test_the_bounds_hold(host: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """They bound what the tool has made."""

    def bootstrap(_job: Job, tree: str) -> None:
        Path(tree).mkdir()
        Path(tree, "large").write_bytes(bytes(11 << 20))

    monkeypatch.setattr(debootstrap, "_bootstrap", bootstrap)
    before = everything(host)
    with pytest.raises(SandlotError, match="unpacks to more than 10485760 bytes"):
        prepare(host, BUSYBOX, debian("bad", variant="essential", max_size="10m"))
    assert everything(host) == before


def test_a_kill_takes_all_processes_and_mounts_along(host: Deployment) -> None:
    before = everything(host)
    pid = os.fork()
    if pid == 0:
        try:
            apply_all(images.operations(host.paths, images.normalise_all([debian("k", "trixie")])))
        finally:
            os._exit(0)
    # The control: there are processes, and mounts in the tree, in a namespace of their own.
    eventually(lambda: any(is_mounted(each, "/scratch/tree/") for each in processes()), 120.0)
    assert not is_mounted("self", "/scratch/tree/")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    eventually(lambda: not any(is_mounted(each, "/scratch/tree/") for each in processes()))
    assert [name for name in everything(host) if name.startswith(".tmp-")]
    assert "images: clean up after an interrupted run" in prepare(host, BUSYBOX, base())
    assert everything(host) == before


def processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def is_mounted(pid: str, path: str) -> bool:
    """Whether a process that is no zombie sees such a mount."""
    try:
        return path in Path(f"/proc/{pid}/mountinfo").read_text()
    except (FileNotFoundError, ProcessLookupError, OSError):
        return False


def test_another_revision_is_another_image(host: Deployment) -> None:
    specs = images.normalise_all([BUSYBOX, {**base(), "revision": "newer"}])
    planned = images.operations(host.paths, specs)
    assert [each.describe() for each in planned][0].startswith("image debian: replace ")


# -- running what it makes


def test_nginx_answers(host: Deployment) -> None:
    page = {"dest": "/var/www/html/index.html", "content": "from the image\n"}
    raw = {**base(), "name": "nginx", "setup": [{"packages": ["nginx-light"]}, page]}
    prepare(host, BUSYBOX, base(), raw)
    root = made(host, "nginx")
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    # No server was started while it was installed.
    assert not list((root / "run").glob("*.pid"))
    port = free_port()
    web = sandbox(
        "web",
        image="nginx",
        command=["nginx", "-g", "daemon off;"],
        capabilities=["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"],
        published_ports=[f"{port}:80"],
    )
    host.converged(web)
    eventually(lambda: is_served(port))
    answer = fetch("127.0.0.1", port)
    assert answer.startswith("HTTP/1.1 200 ") and answer.endswith("from the image\n")
    host.run(sandbox("web", state="absent"))


def is_served(port: int) -> bool:
    try:
        return bool(fetch("127.0.0.1", port))
    except OSError:
        return False


def install(host: Deployment, capabilities: list[str]) -> tuple[int, str, str]:
    """Status, messages, and the mode of a program that is setgid."""
    host.converged(sandbox("apt", image="debian", capabilities=capabilities))
    done = run(host, "apt", "sh", "-c", INSTALL)
    mode = run(host, "apt", "stat", "-c", "%a", "/usr/bin/crontab").stdout.strip()
    host.run(sandbox("apt", state="absent"))
    return done.returncode, done.stdout + done.stderr, mode


def test_apt_get_works_with_the_documented_minimum(host: Deployment) -> None:
    assert install(host, MINIMUM)[::2] == (0, "755")
    assert install(host, [*MINIMUM, "FSETID"])[::2] == (0, "2755")


@pytest.mark.parametrize("lacking", MINIMUM)
def test_apt_get_fails_without_each_of_them(host: Deployment, lacking: str) -> None:
    code, output, _ = install(host, [name for name in MINIMUM if name != lacking])
    assert code == 100 and WITHOUT[lacking] in output, output


USER = """
useradd dev
echo 'dev ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/dev
chmod 440 /etc/sudoers.d/dev
echo root:secret | chpasswd
"""
# By a user without a right: command, and what it prints when set-user-id bits are in force.
GAINS = {
    "sudo -n id -un": "root",
    "sudo -n -u www-data id -un": "www-data",
    "echo secret | su -c 'id -un'": "root",
}


def test_the_setup_has_the_minimum_and_keeps_modes(host: Deployment) -> None:
    assert set(throwaway.CAPABILITIES) == {*MINIMUM, "FSETID"}
    packages = {"packages": ["cron", "iputils-ping", "sudo"]}
    raw = {**base(), "name": "cron", "setup": [packages, USER]}
    prepare(host, BUSYBOX, base(), raw)
    assert (made(host, "cron") / "usr/bin/crontab").stat().st_mode & 0o7777 == 0o2755
    assert made(host, "cron").joinpath("usr/bin/ping").stat().st_mode & 0o7777 == 0o4755
    dev = sandbox("dev", image="cron", user="dev", security_profile="daemon")
    for kept in (True, False):
        host.converged({**dev, "no_new_privileges": kept})
        gained = {
            command: run(host, "dev", "sh", "-c", command).stdout.strip() for command in GAINS
        }
        assert gained == (dict.fromkeys(GAINS, "") if kept else GAINS), kept
        # By ping_group_range, whether its bit counts or not.
        assert " 0% packet loss" in output(host, "dev", "ping", "-c", "1", "127.0.0.1")
    assert host.info("dev")["relaxed"] == ["security_profile: daemon", "no_new_privileges: false"]
    host.run(sandbox("dev", state="absent"))


def test_sandboxes_of_an_image_with_an_ssh_server_have_their_own_keys(host: Deployment) -> None:
    setup = [{"packages": ["openssh-server", "dbus"]}, "mkdir -p /run/sshd"]
    raw = {**base(), "name": "ssh", "setup": setup}
    prepare(host, BUSYBOX, base(), raw)
    assert not list((made(host, "ssh") / "etc/ssh").glob("ssh_host_*"))
    options = {
        "image": "ssh",
        "command": ["/usr/sbin/sshd", "-D", "-e"],
        "capabilities": ["SETGID", "SETUID", "SYS_CHROOT"],
    }
    ports = {name: free_port() for name in ("one", "two")}
    host.converged(
        *(sandbox(name, published_ports=[f"{port}:22"], **options) for name, port in ports.items())
    )
    eventually(lambda: all(scanned(port) for port in ports.values()))
    assert scanned(ports["one"]) != scanned(ports["two"])
    ids = [output(host, name, "dbus-uuidgen", "--get") for name in ports]
    assert len(set(ids)) == 2 and all(len(each) == 33 for each in ids)
    host.run(*(sandbox(name, state="absent") for name in ports))


def scanned(port: int) -> str:
    command = ["ssh-keyscan", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.rpartition(" ")[2]


def test_an_unknown_package_is_told_in_apts_words(host: Deployment) -> None:
    raw: dict[str, Any] = {**base(), "name": "bad"}
    raw["setup"] = [{"packages": ["no-such-package"]}]
    with pytest.raises(SandlotError) as caught:
        prepare(host, BUSYBOX, base(), raw)
    output = str(caught.value)
    assert output.startswith("image 'bad': setup step 1 of 1 (install no-such-package) ended with")
    assert "Unable to locate package no-such-package" in output
