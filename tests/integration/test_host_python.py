# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The host's Python in sandboxes that have none: there while a command asks for it, and safe."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import session_trees
import static_busybox
from exec_fixtures import COMMAND, environment
from sandboxes import Host, Sandbox, until
from sandlot.kernel import mountinfo
from sandlot.reach.python_place import INTERPRETER, PLACE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
WAITING = ["sh", "-c", "echo there; read -r line; echo $line"]


@pytest.fixture
def box(sandbox_host: Host) -> Sandbox:
    return sandbox_host.started("a", ["sleep", "1000000"])


def sandlot(box: Sandbox, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "exec", "-i", *words]
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        env=environment(box.host),
        timeout=120,
        check=False,
    )


def python(box: Sandbox, code: str, *words: str) -> str:
    """The output of code that the host's Python runs inside."""
    done = sandlot(box, "--python", *words, box.name, "--", INTERPRETER, "-", text=code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def mounted(box: Sandbox) -> list[mountinfo.Row]:
    return [row for row in mountinfo.by_id(box.init).values() if row.point.startswith(PLACE)]


@pytest.fixture
def user(box: Sandbox) -> Iterator[subprocess.Popen[str]]:
    """A command that waits inside, with the interpreter in sight."""
    process = waiting(box)
    yield process
    process.kill()
    process.communicate()


def waiting(box: Sandbox) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [*COMMAND, "exec", "-i", "--python", box.name, "--", *WAITING]
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment(box.host)
    )
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


LOOKS = f"""
import ctypes, hashlib, json, lzma, os, pwd, socket, sqlite3, ssl, subprocess, sys, threading
child = [sys.executable, "-c", "import sys; print(sys.executable)"]
shell = ["/bin/sh", "-c", "env"]
thread = threading.Thread(target=sys.exit)
thread.start(); thread.join()
maps = {{line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}}
print(json.dumps({{
    "executable": sys.executable,
    "child": subprocess.run(child, capture_output=True, text=True).stdout.strip(),
    "outside": [path for path in (*filter(None, sys.path), *maps) if path[:12] != {PLACE!r}],
    "environment": subprocess.run(shell, capture_output=True, text=True).stdout.split(),
    "user": pwd.getpwuid(33).pw_name,
    "host": socket.gethostbyname("localhost"),
    "owner": os.stat(sys.executable).st_uid,
    "sandbox": [os.getuid(), socket.gethostname()],
}}))
"""


def test_it_is_the_python_of_the_sandbox(box: Sandbox) -> None:
    found = json.loads(python(box, LOOKS))
    assert set(found.pop("environment")) == {"PATH=/bin", "PWD=/", "SHLVL=1"}
    assert found == {
        "executable": INTERPRETER,
        "child": INTERPRETER,
        "outside": [],
        "user": "web",
        "host": "127.0.0.1",
        "owner": 0,
        "sandbox": [0, "a"],
    }


def test_it_is_there_for_the_time_of_commands_that_ask(box: Sandbox) -> None:
    missing = sandlot(box, "a", "--", INTERPRETER, "-c", "")
    assert missing.returncode == 127
    before = sorted(os.listdir(box.paths.run))
    assert python(box, "print(6 * 7)") == "42\n"
    assert mounted(box) == [] and sorted(os.listdir(box.paths.run)) == before
    assert PLACE not in sandlot(box, "a", "--", "ls", "-d", "/dev/.python").stdout


def test_nothing_of_the_image_is_needed(sandbox_host: Host, box: Sandbox) -> None:
    """Neither a shell nor a C library nor a root to write to; other libraries do no harm."""
    image = Path(sandbox_host.paths.images, "foreign", "root")
    session_trees.linked("foreign", _make_foreign, image)
    other = sandbox_host.started("b", ["/bin/sleep", "1000000"], lower=image, read_only=True)
    assert sandlot(other, "b", "--", "/bin/sh").returncode == 127
    assert json.loads(python(other, "import ssl, sys; print(len(sys.argv))")) == 1


def _make_foreign(root: Path) -> Path:
    kept = ("dev", "proc", "run", "sys", "tmp", "var/tmp")
    for directory in ("bin", "etc", "lib/x86_64-linux-gnu", "lib64", *kept):
        (root / directory).mkdir(parents=True, mode=0o755)
    program = root / "bin" / "sleep"
    program.write_bytes(Path(static_busybox.PROGRAM).read_bytes())
    program.chmod(0o755)
    (root / "usr").symlink_to(".")
    for name in ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "etc/ld.so.cache"):
        (root / name).write_text("not what the host has")
    for name in ("libc.so.6", "libz.so.1", "libssl.so.3", "libpython3.11.so.1.0"):
        (root / "lib/x86_64-linux-gnu" / name).write_text("not what the host has")
        (root / "lib" / name).write_text("not what the host has")
    return root


def test_commands_share_it_and_the_last_one_unmounts(
    box: Sandbox, user: subprocess.Popen[str]
) -> None:
    (first,) = mounted(box)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = [f"print({number})" for number in range(8)]
        assert list(pool.map(lambda code: python(box, code), codes)) == [
            f"{number}\n" for number in range(8)
        ]
    assert [row.id for row in mounted(box)] == [first.id]
    assert user.communicate("done\n")[0] == "done\n"
    assert mounted(box) == []
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda code: python(box, code), codes))) == 8
    assert mounted(box) == []


def test_a_job_that_goes_on_keeps_it(box: Sandbox) -> None:
    code = """
import os, sys
if os.fork() == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    while not os.path.exists("/tmp/end"):
        os.system("sleep 0.05")
    import lzma, subprocess
    subprocess.run([sys.executable, "-c", "open('/tmp/ended', 'w')"])
"""
    python(box, code)
    assert len(mounted(box)) == 1
    python(box, "open('/tmp/end', 'w')")
    until(lambda: sandlot(box, "a", "--", "test", "-e", "/tmp/ended").returncode == 0)
    until(lambda: sandlot(box, "a", "--", "true").returncode == 0 and not mounted(box))


def test_the_next_command_unmounts_for_one_that_was_killed(
    box: Sandbox, user: subprocess.Popen[str]
) -> None:
    user.send_signal(signal.SIGKILL)
    user.wait()
    assert len(mounted(box)) == 1
    assert sandlot(box, "a", "--", "true").returncode == 0
    assert mounted(box) == []


def test_a_detached_command_keeps_it_to_its_end(box: Sandbox) -> None:
    code = "open('/tmp/x', 'w')"
    script = f'until [ -e /tmp/go ]; do sleep 0.05; done; {INTERPRETER} -c "{code}"'
    command = [*COMMAND, "exec", "--python", "-d", "a", "--", "sh", "-c", script]
    subprocess.run(command, env=environment(box.host), timeout=60, check=True)
    assert len(mounted(box)) == 1
    box.shell("touch /tmp/go; until [ -e /tmp/x ]; do sleep 0.05; done")
    until(lambda: sandlot(box, "a", "--", "true").returncode == 0 and not mounted(box))


def test_owners_where_the_kernel_maps_no_ids(box: Sandbox) -> None:
    box.write(idmap=False)
    assert python(box, "import os, sys; print(os.stat(sys.executable).st_uid)") == "65534\n"


@pytest.mark.parametrize("again", [False, True])
def test_a_stop_meanwhile(box: Sandbox, user: subprocess.Popen[str], *, again: bool) -> None:
    box.stop()
    if again:
        box.start()
        assert python(box, "print(1)") == "1\n"
    user.communicate("x\n")
    assert user.returncode == 137
    if again:
        assert mounted(box) == [] and python(box, "print(2)") == "2\n"


def test_a_place_that_the_sandbox_has_taken(box: Sandbox) -> None:
    sandlot(box, "a", "--", "ln", "-s", "/tmp", "/dev/.python")
    done = sandlot(box, "--python", "a", "--", "true")
    assert done.returncode == 125
    assert "/dev/.python can't be mounted" in done.stderr and "its /dev" in done.stderr
    assert mounted(box) == [] and os.listdir(f"{box.paths.run}/ns")
    sandlot(box, "a", "--", "sh", "-c", "rm /dev/.python; mkdir /dev/.python; >/dev/.python/x")
    assert python(box, "import os; print(os.listdir('/dev/.python/bin'))") == "['python3']\n"
    assert sandlot(box, "a", "--", "ls", "/dev/.python").stdout == "x\n"


def test_an_upgrade_of_the_host_makes_it_anew(box: Sandbox, user: subprocess.Popen[str]) -> None:
    """A tree stays as long as a sandbox shows it."""
    python_trees = Path(box.host.paths.python)
    (old,) = trees(box)
    sources = json.loads((python_trees / old / "sources.json").read_text())
    sources["stamps"][sources["program"]] = [0, 0]
    (python_trees / old / "sources.json").write_text(json.dumps(sources))
    aged = (python_trees / old).rename(python_trees / "0123456789abcdef")
    noted = Path(box.paths.python)
    noted.write_text(noted.read_text().replace(old, aged.name))
    (python_trees / ".new").mkdir()  # of a killed run
    other = box.host.started("b", ["sleep", "1000000"])
    assert python(other, "print(3)") == "3\n"
    assert trees(box) == {old, aged.name}
    user.communicate("x\n")
    sources["stamps"]["/"] = [0, 0]
    (python_trees / old / "sources.json").write_text(json.dumps(sources))
    (python_trees / old).rename(python_trees / "fedcba9876543210")
    assert python(other, "print(4)") == "4\n"
    assert trees(box) == {old}


def trees(box: Sandbox) -> set[str]:
    return {path.name for path in Path(box.host.paths.python).iterdir() if path.is_dir()}
