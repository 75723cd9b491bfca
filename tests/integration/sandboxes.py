# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sandboxes from hand-made launch.json files under a moved root, with a launcher of their own.

    def test_x(sandbox_host):
        box = sandbox_host.started("a", ["sleep", "1000"])       # busybox image
        assert box.exec(["id", "-u"]).stdout == b"0\n"
        box.until(lambda: box.status().get("state") == "exited")

The defaults are those a deployment writes; a test weakens one by naming it (``seccomp=None``).
"""

from __future__ import annotations

import base64
import contextlib
import os
import platform
import resource
import select
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import pytest
import session_trees
import static_busybox
from sandlot import security, store, wire
from sandlot.errors import LaunchError
from sandlot.kernel import fork
from sandlot.launcher.client import Launcher
from sandlot.sandbox import runtime
from sandlot.security import seccomp
from sandlot.site import Site

ENGINE = Path(__file__).resolve().parent.parent.parent / "module_utils" / "sandlot"
SYSTEM_PYTHON = "/usr/bin/python3"
FIRST_ID, IDS = 2_000_000_000, 65536
# A test may look for processes of an id; there is room for four workers.
IDS_OF_WORKER = 512 * IDS
DEADLINE = 20.0
SUPERVISOR = "sandlot-super"


def until(condition: Callable[[], Any], *, seconds: float = DEADLINE, what: str = "") -> Any:
    """What ``condition`` returns once it is true; for states that no descriptor announces."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        select.select([], [], [], 0.01)


def wait_dead(pid: int, *, seconds: float = DEADLINE) -> None:
    """Until the process has ended, also when somebody else reaps it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            raise AssertionError(f"process {pid} still lives after {seconds} s")
    finally:
        os.close(pidfd)


@dataclass(frozen=True)
class Result:
    code: int
    stdout: bytes
    stderr: bytes


class Sandbox:
    def __init__(self, host: Host, name: str, config: dict[str, Any]) -> None:
        self.host = host
        self.name = name
        self.config = config
        self.paths = host.paths.sandbox(name)

    def write(self, **changes: Any) -> None:
        """launch.json with ``changes``, in effect at the next create or start."""
        self.config.update(changes)
        store.write(self.paths.launch, self.config, durable=False)

    def _all(self, operation: Callable[[Iterable[str]], dict[str, LaunchError]]) -> None:
        failures = operation([self.name])
        if failures:
            raise failures[self.name]

    def create(self) -> None:
        self._all(self.host.launcher.create)

    def start(self) -> Sandbox:
        self._all(self.host.launcher.start)
        return self

    def stop(self) -> None:
        self._all(self.host.launcher.stop)

    def destroy(self) -> None:
        self._all(self.host.launcher.destroy)

    def running(self) -> runtime.Running | None:
        return runtime.running(self.host.paths.sandbox(self.name))

    @property
    def init(self) -> int:
        """Pid of init, on the host."""
        running = self.running()
        assert running is not None, f"{self.name} does not run: {self.status()}"
        return running.pid

    @property
    def workload(self) -> int:
        """Pid of the workload, on the host."""
        inside = self.status()["pid"]
        return until(lambda: next((p for p in self.pids() if pid_inside(p) == inside), None))

    def pids(self) -> list[int]:
        """Processes below init but its supervisor, on the host, init first."""
        found = [self.init]
        for pid in found:
            found += [child for child in children(pid) if name_of(child) != SUPERVISOR]
        return found

    def supervisors(self) -> list[int]:
        """The supervisor while init has one, and copies of it that become commands."""
        return [child for child in children(self.init) if name_of(child) == SUPERVISOR]

    def asleep(self) -> Sandbox:
        """Wait until init has nothing to do, and no supervisor."""
        until(lambda: not self.supervisors(), what="init has no supervisor")
        return self

    def limit(self, kind: int, soft: int) -> None:
        """Set a limit of init, then of its supervisor, as their own user may (root may not)."""
        uid, init = self.config["ids"]["uid"], self.init

        def work(_report: int) -> bytes:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            hard = resource.prlimit(init, kind)[1]
            resource.prlimit(init, kind, (soft, hard))
            for pid in [child for child in children(init) if name_of(child) == SUPERVISOR]:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, kind, (soft, hard))
            return b""

        assert fork.call(work) == (b"", 0)

    def status(self) -> dict[str, Any]:
        return runtime.status(self.host.paths.sandbox(self.name))

    def state(self) -> str:
        return str(self.status().get("state", ""))

    def until(self, condition: Callable[[], Any], *, seconds: float = DEADLINE) -> Any:
        try:
            return until(condition, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; status {self.status()}; log {self.log()}") from None

    def until_final(self) -> dict[str, Any]:
        """The status once init has ended on purpose."""
        self.until(lambda: self.status().get("final") and self.running() is None)
        return self.status()

    def log_lines(self) -> list[bytes]:
        """Lines of the ring, oldest first, as they are in the files; no end of a full file."""
        files = [Path(p) for p in self.paths.logs if os.path.exists(p)]
        files.sort(key=lambda p: p.stat().st_mtime_ns)
        lines = [line for p in files for line in p.read_bytes().splitlines(keepends=True)]
        return [line for line in lines if line != b"\n"]

    def log(self, stream: str = "") -> list[str]:
        """Text of the log's lines without their stamps."""
        lines = [
            line.decode(errors="replace").rstrip("\n").split(" ", 3) for line in self.log_lines()
        ]
        return [fields[3] for fields in lines if not stream or fields[1] == stream]

    def session(
        self,
        argv: Sequence[str],
        fds: Sequence[int] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str | None = None,
        tty: bool = False,
    ) -> socket.socket:
        """An exec under way: answers come over the socket that is returned."""
        connection = wire.connect(self.paths.socket)
        request = {"op": "exec", "argv": list(argv), "env": dict(env or {}), "cwd": cwd}
        wire.send(connection, {**request, "user": user, "tty": tty}, list(fds))
        return connection

    def exec(self, argv: Sequence[str], *, stdin: bytes = b"", **options: Any) -> Result:
        """Run a command inside to its end; LaunchError when it could not be started."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
            with tempfile.TemporaryFile() as err:
                given.write(stdin)
                given.seek(0)
                fds = [given.fileno(), out.fileno(), err.fileno()]
                with self.session(argv, fds, **options) as connection:
                    code = exit_code(connection)
                out.seek(0)
                err.seek(0)
                return Result(code, out.read(), err.read())

    def shell(self, script: str, **options: Any) -> Result:
        return self.exec(["sh", "-c", script], **options)

    def python(self, script: str, *arguments: str, **options: Any) -> Result:
        """Run a script inside; needs the image ``host.python_image``."""
        return self.exec(["/usr/bin/python3", "-ISc", script, *arguments], **options)


def receive(connection: socket.socket, *, seconds: float = DEADLINE) -> tuple[Any, list[int]]:
    assert select.select([connection], [], [], seconds)[0], f"no answer of init within {seconds} s"
    return wire.receive(connection)


def exit_code(connection: socket.socket, *, seconds: float = 120.0) -> int:
    while True:
        message, fds = receive(connection, seconds=seconds)
        wire.close_all(fds)
        if message is None:
            raise LaunchError("init closed the session")
        if "error" in message:
            raise LaunchError(message["error"], hint=message.get("hint", ""))
        if "exit" in message:
            return int(message["exit"])


def processes_of(root: Path) -> list[int]:
    """Pids of a moved root's launchers, of their zygotes, and of its inits."""
    found = []
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(root) in words and status_or_empty(pid).get("State", "Z")[0] != "Z":
            found.append(pid)
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def workload_of(init: int) -> int:
    """The first process below init but its supervisor, on the host."""
    return next(child for child in children(init) if name_of(child) != SUPERVISOR)


def name_of(pid: int) -> str:
    return status_or_empty(pid).get("Name", "")


def status_fields(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def switches(pid: int) -> tuple[str, str]:
    """The context switches of a process, which stay the same while it sleeps."""
    fields = status_fields(pid)
    return fields["voluntary_ctxt_switches"], fields["nonvoluntary_ctxt_switches"]


def status_or_empty(pid: int) -> dict[str, str]:
    """The same of a process that may have ended."""
    try:
        return status_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return {}


def zygote_of(launcher: int) -> int:
    """Pid of the process that forks inits, 0 when there is none."""
    names = {p: status_or_empty(p).get("Name") for p in children(launcher)}
    return next((p for p, name in names.items() if name == "sandlot-zygote"), 0)


def pid_inside(pid: int) -> int:
    try:
        return int(status_fields(pid)["NSpid"].split()[-1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Host:
    """A moved root with an image, sandboxes and a launcher that runs a copy of the engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Site(str(root))
        self.launcher = Launcher(self.paths)
        self.boxes: dict[str, Sandbox] = {}
        self.last_id = FIRST_ID + _worker() * IDS_OF_WORKER
        os.makedirs(self.paths.sandboxes, mode=0o700)
        os.makedirs(self.paths.run, mode=0o700)
        session_trees.release(self.paths)
        self.image = Path(self.paths.images) / "busybox" / "root"
        session_trees.linked("busybox", make_busybox_tree, self.image)

    @property
    def python_image(self) -> Path:
        """The busybox image with the host's Python in it, for attacks by system call."""
        root = Path(self.paths.images) / "python" / "root"
        if not root.exists():
            session_trees.linked("python", lambda made: add_python(make_busybox_tree(made)), root)
        return root

    def sandbox(self, name: str, argv: Sequence[str], **changes: Any) -> Sandbox:
        """Writes layer, host files and launch.json; nothing runs yet."""
        box = self.boxes.get(name) or Sandbox(self, name, {})
        if name not in self.boxes:
            self.boxes[name] = box
            self.last_id += IDS
        base = box.config.get("ids", {}).get("uid", self.last_id)
        for directory in (box.paths.upper, box.paths.work, box.paths.etc):
            os.makedirs(directory, mode=0o755, exist_ok=True)
        os.chown(box.paths.upper, base, base)
        Path(box.paths.etc, "hosts").write_text("127.0.0.1 localhost\n")
        ids = {"uid": base, "gid": base, "size": IDS}
        box.config = {**launch_defaults(self, box), "ids": ids, "argv": list(argv), **changes}
        box.config["lower"] = str(box.config["lower"])
        box.write()
        return box

    def created(self, name: str, argv: Sequence[str], **changes: Any) -> Sandbox:
        box = self.sandbox(name, argv, **changes)
        box.create()
        return box

    def started(self, name: str, argv: Sequence[str], **changes: Any) -> Sandbox:
        return self.created(name, argv, **changes).start()

    def launcher_pid(self) -> int:
        self.launcher.ensure()
        answer = self.launcher.ping()
        assert answer is not None
        return int(answer["pid"])

    def clear(self, *, keep: Iterable[str] = ()) -> None:
        """Stop and remove sandboxes; the launcher stays."""
        names = sorted({*self.boxes, *runtime.names(self.paths)} - set(keep))
        assert not self.launcher.stop(names)
        assert not self.launcher.destroy(names)
        for name in names:
            shutil.rmtree(self.paths.sandbox(name).run, ignore_errors=True)
            shutil.rmtree(self.paths.sandbox(name).state, ignore_errors=True)
            self.boxes.pop(name, None)

    def close(self) -> None:
        self.clear()
        answer = self.launcher.ping()
        self.launcher.quit()
        if answer is not None:
            wait_dead(int(answer["pid"]))
        log = Path(self.paths.run, "launcher.log")
        trouble = log.read_text() if log.exists() else ""
        # The zygote ends a moment after the launcher.
        until(lambda: not processes_of(self.root), what=f"no process of {self.root} is left")
        shutil.rmtree(self.root)
        session_trees.assert_unchanged()
        assert "Traceback" not in trouble, trouble


def _worker() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4


def launch_defaults(host: Host, box: Sandbox) -> dict[str, Any]:
    program = seccomp.program(machine=platform.machine())
    return {
        "name": box.name,
        "digest": "d1",
        "lower": str(host.image),
        "idmap": True,
        "upper": box.paths.upper,
        "work": box.paths.work,
        "read_only": False,
        "hostname": box.name,
        "env": {"PATH": "/bin"},
        "login": [],
        "cwd": "/",
        "user": "0:0",
        "tmpfs": {},
        "files": {"/etc/hosts": f"{box.paths.etc}/hosts"},
        "cgroups": [],
        "rlimits": {},
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "capabilities": 0,
        "seccomp": base64.b64encode(program or b"").decode(),
        "masked": list(security.MASKED),
        "readonly": list(security.READONLY),
        "time_offset": None,
        "restart": {"policy": "no", "retries": 0},
        "stop": {"signal": 15, "timeout": 5.0},
        "log_max_size": 1 << 20,
    }


def make_busybox_tree(root: Path) -> Path:
    for directory in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "var"):
        (root / directory).mkdir(parents=True, mode=0o755)
    busybox = root / "bin" / "busybox"
    shutil.copyfile(static_busybox.PROGRAM, busybox)
    busybox.chmod(0o755)
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\nweb:x:33:\nextra:x:44:web\n")
    return root


def add_python(root: Path) -> Path:
    """The system's Python, its library and the shared objects both need."""
    library = Path(os.path.dirname(_python("import os; print(os.__file__)")))
    skipped = shutil.ignore_patterns("__pycache__", "dist-packages", "test", "idlelib", "lib2to3")
    shutil.copytree(library, root / library.relative_to("/"), symlinks=True, ignore=skipped)
    interpreter = Path(SYSTEM_PYTHON).resolve()
    shutil.copy(interpreter, root / "usr/bin/python3")
    (root / "usr/bin" / interpreter.name).symlink_to("python3")
    objects = [interpreter, *library.glob("lib-dynload/_ctypes.*.so")]
    listed = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=True)
    for word in {
        word for word in listed.stdout.split() if word.startswith("/") and ":" not in word
    }:
        target = root / word.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(word).resolve(), target)
    return root


def _python(code: str) -> str:
    command = [SYSTEM_PYTHON, "-ISE", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def open_host() -> Host:
    # Short, because a socket's address holds 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    root.chmod(stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH)
    return Host(root)


@pytest.fixture(scope="module")
def module_host() -> Iterator[Host]:
    """One launcher and one image for the tests of a module."""
    host = open_host()
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def sandbox_host(module_host: Host) -> Iterator[Host]:
    """The module's host; what a test adds is removed after it."""
    before = set(module_host.boxes)
    try:
        yield module_host
    finally:
        module_host.clear(keep=before)


@pytest.fixture
def fresh_host() -> Iterator[Host]:
    """A host of the test's own, for those that kill or replace the launcher."""
    host = open_host()
    try:
        yield host
    finally:
        host.close()
