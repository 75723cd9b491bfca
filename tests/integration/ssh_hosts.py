# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""An SSH server on this process's own loopback, whose users this process's own mounts know.

with ssh_hosts.serving() as server:
    inventory = {"alpha": server.variables("keeper")}
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converge_fixtures import eventually, free_port
from sandlot.kernel import flock

TREE = Path(sys.prefix, "share/openssh")
PASSWORD = "correct-horse"
# sudo asks "keeper" for the password, and lets "warden" do all.
KEEPER, WARDEN, STRANGER = "keeper", "warden", "stranger"
_IDS = {KEEPER: 4301, WARDEN: 4302, STRANGER: 4303}
_RUN = Path("/run/sshd")
_SUDO = f"Defaults !lecture\n{KEEPER} ALL=(ALL) ALL\n{WARDEN} ALL=(ALL) NOPASSWD: ALL\n"
_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {top}/host
AuthorizedKeysFile {top}/user.pub
PidFile none
UsePAM no
PasswordAuthentication yes
PermitRootLogin yes
StrictModes no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Server:
    top: Path
    port: int

    def variables(self, user: str, **others: Any) -> dict[str, Any]:
        """Variables of a host in an inventory."""
        return {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(self.top / "user"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.top}/known",
            **others,
        }

    def logins(self, user: str) -> int:
        """How often somebody has logged in as the user."""
        return (self.top / "log").read_text().count(f"Accepted publickey for {user} ")


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ssh", dir="/var/tmp")))
        top.chmod(0o755)
        _know_users(stack, top)
        (top / "log").touch()
        for key in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(top / key)]
            subprocess.run(command, check=True)
        port = free_port()
        public = (top / "host.pub").read_text()
        (top / "known").write_text(f"[127.0.0.1]:{port} {public}")
        (top / "config").write_text(_CONFIG.format(port=port, top=top) + _parts())
        stack.enter_context(_run_directory())
        _start(stack, top)
        yield Server(top, port)


@contextlib.contextmanager
def _run_directory() -> Iterator[None]:
    """The directory that sshd looks for at each login; who leaves last removes it.

    All processes of the tests have the same /run. A machine's own server has no files there.
    """
    own = _RUN / f"test-{os.getpid()}"
    with _alone():
        if is_ours := not _RUN.exists() or any(_RUN.glob("test-*")):
            _RUN.mkdir(mode=0o755, exist_ok=True)
            own.touch()
    try:
        yield
    finally:
        with _alone():
            if is_ours:
                own.unlink()
                if not any(_RUN.iterdir()):
                    _RUN.rmdir()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    parent = os.open(_RUN.parent, os.O_RDONLY)
    try:
        flock.take(parent)
        yield
    finally:
        os.close(parent)


def _parts() -> str:
    """Where later versions of sshd find their other programs."""
    parts = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    places = {key: TREE / "usr/lib/openssh" / name for key, name in parts.items()}
    return "".join(f"{key} {place}\n" for key, place in places.items() if place.exists())


def _is_known(user: str) -> bool:
    return any(entry.pw_name == user for entry in pwd.getpwall())


def _know_users(stack: contextlib.ExitStack, top: Path) -> None:
    """Only the mount namespace of this process knows them."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, text=True, check=True,
        capture_output=True,
    ).stdout.strip()  # fmt: skip
    separated = "" if _is_known("sshd") else f"sshd:x:4300:65534::{_RUN}:/usr/sbin/nologin\n"
    lines = {"passwd": separated, "group": "", "shadow": "", "sudoers": _SUDO}
    for user, number in _IDS.items():
        home = top / user
        home.mkdir()
        os.chown(home, number, number)
        lines["passwd"] += f"{user}:x:{number}:{number}::{home}:/bin/sh\n"
        lines["group"] += f"{user}:x:{number}:\n"
        lines["shadow"] += f"{user}:{hashed}:19000:0:99999:7:::\n"
    for name, added in lines.items():
        own = top / name
        shutil.copy2(f"/etc/{name}", own)
        shutil.chown(own, os.stat(f"/etc/{name}").st_uid, os.stat(f"/etc/{name}").st_gid)
        with own.open("a") as file:
            file.write(added)
        subprocess.run(["mount", "--bind", str(own), f"/etc/{name}"], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", f"/etc/{name}"], check=True)


def _start(stack: contextlib.ExitStack, top: Path) -> None:
    command = [str(TREE / "usr/sbin/sshd"), "-D", "-f", str(top / "config"), "-E", str(top / "log")]
    libraries = ":".join({str(path.parent) for path in TREE.glob("usr/lib/**/libw*.so.*")})
    server = subprocess.Popen(command, env={"LD_LIBRARY_PATH": libraries})
    stack.callback(server.wait)
    stack.callback(server.kill)
    eventually(lambda: "Server listening" in (top / "log").read_text())
