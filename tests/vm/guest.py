# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A Debian guest in QEMU: booted, reached by SSH, cut off from power; and plays against it."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from image import USER, Image

TREE = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 900.0
COMMAND_SECONDS = 600.0
PLAY_SECONDS = 1200.0
POLL_SECONDS = 0.5
GREETING_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
# An emulated host now and then drops a connection that is being made.
_ANSIBLE = {"ANSIBLE_TIMEOUT": "120", "ANSIBLE_SSH_RETRIES": "3", "ANSIBLE_NOCOLOR": "1"}
# All after panic cost a third of an emulated machine's time, and sandboxes can't tell. The machine
# has a controller of disks that has none.
_APPEND = (
    "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off norandmaps transparent_hugepage=never"
    " modprobe.blacklist=ata_piix,ata_generic"
)
TAIL = 6000


class Guest:
    """One machine with a disk of its own, over the shared image; its power may be cut."""

    def __init__(self, image: Image, directory: Path, *, kvm: bool) -> None:
        self.image = image
        self.directory = directory
        self.kvm = kvm
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.disk = directory / "disk.qcow2"
        self.key = directory / "key"
        self._run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk))
        self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.key))
        # A disk's size is a number of whole sectors.
        public = self.key.with_suffix(".pub").read_text()
        (directory / "key.disk").write_text(public.ljust(512, "\n"))

    def _run(self, *command: str) -> None:
        extra = [str(self.disk)] if command[0] == "qemu-img" else []
        subprocess.run([*command, *extra], check=True)

    # -- power

    def power_on(self) -> None:
        self.port = _free_port()
        console = open(self.directory / "console.log", "ab")
        with console:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=_die_with_parent,
            )

    def _command(self) -> list[str]:
        accelerator = "kvm" if self.kvm else "tcg"
        network = f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        return [
            "qemu-system-x86_64",
            "-nodefaults",
            *("-display", "none"),
            *("-serial", "stdio"),
            *("-accel", accelerator),
            # For a newer one than this udev loads drivers by the dozen.
            *("-cpu", "host" if self.kvm else "Nehalem,+rdrand"),
            # A reset machine now and then waits for its first disk for ever (QEMU 7.2).
            "-no-reboot",
            *("-smp", "1"),
            *("-m", "1024"),
            *("-kernel", str(self.image.kernel)),
            *("-initrd", str(self.image.initrd)),
            *("-append", _APPEND),
            # What the guest has written is in this machine's memory when QEMU is killed: no need
            # to wait for a disk.
            *("-drive", f"file={self.disk},format=qcow2,if=virtio,cache=unsafe"),
            *("-drive", f"file={self.directory}/key.disk,format=raw,if=virtio,readonly=on"),
            *("-device", "virtio-rng-pci"),
            *("-netdev", network),
            *("-device", "virtio-net-pci,netdev=net0"),
        ]

    def cut_power(self) -> None:
        """End QEMU at once, as pulling the plug would: what the guest has not written is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.hang_up()

    def boot(self) -> None:
        self.power_on()
        self.settle()

    def reboot(self) -> None:
        assert self.process is not None
        self.ssh("sudo systemctl reboot", check=False)
        self.process.wait(BOOT_SECONDS)
        self.hang_up()
        self.boot()

    def settle(self) -> None:
        """Until SSH answers and systemd has no job left."""
        self._await(self.listens, "listen")
        self._await(lambda: self.boot_id() != "", "answer")
        self.ssh("systemctl is-system-running --wait", check=False)

    def boot_id(self) -> str:
        """Empty while nobody answers."""
        done = self.ssh("cat /proc/sys/kernel/random/boot_id", check=False, patience=60)
        if done.returncode:
            self.hang_up()  # QEMU keeps connections to a kernel that is gone
            return ""
        return done.stdout.strip()

    def listens(self) -> bool:
        """Whether SSH greets.

        QEMU accepts connections for a guest without a network, and tries these again too late.
        """
        try:
            with socket.create_connection(("127.0.0.1", self.port), GREETING_SECONDS) as probe:
                return bool(probe.recv(1))
        except OSError:
            return False

    def _await(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while not condition():
            if not self.alive() or time.monotonic() > deadline:
                raise TimeoutError(f"the guest did not {what}: {self.console()[-TAIL:]}")
            time.sleep(POLL_SECONDS)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def console(self) -> str:
        return (self.directory / "console.log").read_text(errors="replace")

    def last_words(self) -> list[tuple[str, str]]:
        """What a failure may be explained by."""
        words = [("console of the guest", self.console()[-TAIL:])]
        if self.alive():
            journal = self.ssh("sudo journalctl -b -n 80 --no-pager", check=False, patience=60)
            words.append(("journal of the guest", journal.stdout + journal.stderr))
        return words

    # -- commands

    def ssh_options(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def ssh(
        self, command: str, *, check: bool = True, patience: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as the user with sudo."""
        words = [*self._ssh(*self._shared("ssh")), command]
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            if check:
                raise
            return subprocess.CompletedProcess(words, 255, "", "timed out")
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def _ssh(self, *options: str) -> list[str]:
        words = ["ssh", *self.ssh_options(), *options, "-i", str(self.key)]
        return [*words, "-p", str(self.port), f"{USER}@127.0.0.1"]

    def background(self, command: str, output: IO[str]) -> subprocess.Popen[bytes]:
        """A command of root through a connection of its own, which is lost with the power."""
        return subprocess.Popen(
            [*self._ssh(), f"sudo sh -c {shlex.quote(command)}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )

    def output(self, command: str) -> str:
        return self.ssh(command).stdout.strip()

    def root(self, command: str) -> str:
        return self.output(f"sudo sh -c {shlex.quote(command)}")

    def json(self, command: str) -> Any:
        return json.loads(self.root(command))

    def put(self, source: Path, target: str) -> None:
        text = shlex.quote(source.read_text())
        self.ssh(f"printf %s {text} > {shlex.quote(target)}")

    # -- plays

    def play(self, playbook: str, variables: dict[str, Any], *extra: str) -> Play:
        """Start ansible-playbook against this guest, as a user would."""
        inventory = self.directory / "inventory.json"
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": USER,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": shlex.join([*self.ssh_options(), *self._shared("play")]),
        }
        hosts = {"sandbox_hosts": {"hosts": {"guest": host}, "vars": variables}}
        inventory.write_text(json.dumps(hosts))
        command = ["ansible-playbook", "-i", str(inventory), playbook, *extra]
        return Play(command, self.directory / "play.log")

    def _shared(self, whose: str) -> list[str]:
        """One connection for many commands, for an emulated machine is slow at making one."""
        path = self.directory / f"{whose}-{self.port}"
        options = {"ControlMaster": "auto", "ControlPersist": "60s", "ControlPath": str(path)}
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def hang_up(self) -> None:
        """Close the connections that are kept open: the deploying user logs out."""
        for whose in ("play", "ssh"):
            command = ["ssh", *self._shared(whose), "-O", "exit", f"{USER}@127.0.0.1"]
            subprocess.run(command, capture_output=True, check=False)


class Play:
    """A run of ansible-playbook with all that it starts, in a process group of its own."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        # No pipe: connections that are kept open would hold its other end.
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=TREE,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **_ANSIBLE},
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        if self.running():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def finish(play: Play, patience: float = PLAY_SECONDS) -> str:
    """The output of a play that has to succeed."""
    try:
        code = play.process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end within {patience:.0f} seconds: {play.output()}") from None
    finally:
        play.end()
    assert code == 0, play.output()
    return play.output()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """No guest outlives the tests, however these end."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
