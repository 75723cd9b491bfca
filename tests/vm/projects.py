# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Runs in a guest: sizes of a host below ROOT, whose file system has project quotas.

The engine is the guest's installed one; what fails is an AssertionError.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

sys.path.insert(0, "/usr/local/lib/sandlot")
from sandlot import cgroups, converge, images, network, sizes  # noqa: E402
from sandlot.errors import SpecError  # noqa: E402
from sandlot.kernel import fork, namespaces, quotas  # noqa: E402
from sandlot.launcher.client import Launcher  # noqa: E402
from sandlot.network.common import declare  # noqa: E402
from sandlot.plan import apply_all  # noqa: E402
from sandlot.sandbox import layers, runtime  # noqa: E402
from sandlot.site import Site  # noqa: E402
from sandlot.sizes import projects  # noqa: E402
from sandlot.spec import normalise_all  # noqa: E402

SITE = Site(sys.argv[1])
SLEEP = {"image": "busybox", "command": ["sleep", "1000000"], "security_profile": "daemon"}
MIB = 1 << 20
QUOTA = "Disk quota exceeded"


def run(size: str | None) -> list[str]:
    """Deploy the sandbox with a size and its neighbour without."""
    specs = normalise_all([{"name": "hog", "disk_size": size, **SLEEP}, {"name": "web", **SLEEP}])
    done = converge.converge(SITE, converge.request(specs))
    assert not done.failed, done.failed
    return list(done.actions)


def inside(name: str, *words: str) -> str:
    """What a command of the sandbox prints, complaints included."""
    argv = ["/usr/local/bin/sandlot", "exec", name, "--", *words]
    done = subprocess.run(argv, env={**os.environ, "SANDLOT_ROOT": SITE.root}, capture_output=True)
    return (done.stdout + done.stderr).decode()


def write(name: str, file: str, mebibytes: int) -> str:
    return inside(name, "dd", "if=/dev/zero", f"of={file}", "bs=64k", f"count={mebibytes * 16}")


def pid() -> int:
    running = runtime.running(SITE.sandbox("hog"))
    assert running is not None
    return running.pid


def number() -> int:
    (ours,) = projects.recorded(SITE)
    return ours


def test_full() -> None:
    """The control is the neighbour, which has no limit and writes more than that."""
    assert sizes.choose(SITE.state).name == sizes.PROJECT
    run("32m")
    assert QUOTA in write("hog", "/fill", 48), inside("hog", "ls", "-l", "/")
    assert quotas.limits(SITE.sandboxes, number()).used <= 32 * MIB
    assert inside("hog", "df", "-m", "/").split()[-5] == "32"
    assert "error" not in write("web", "/mine", 48)
    with open(f"{SITE.root}/host", "wb") as file:
        file.write(bytes(MIB))
    inside("hog", "rm", "/fill")
    assert "error" not in write("hog", "/less", 24)


def test_inodes() -> None:
    script = "mkdir /d && cd /d && for i in $(seq 5000); do : > $i || break; done; ls | wc -l"
    assert QUOTA in inside("hog", "sh", "-c", script)
    assert 3900 < int(inside("web", "sh", "-c", script).split()[-1]) == 5000
    inside("hog", "rm", "-r", "/d")


def test_a_tenant_stays_in_the_project() -> None:
    """The control is root of the host."""
    inside("hog", "mkdir", "/out")
    upper = f"{SITE.sandbox('hog').upper}/out"
    assert quotas.project_of(upper) == number()
    outcome, _ = fork.call(lambda _report: leave_as_tenant(upper))
    assert outcome in (b"EINVAL", b"EPERM"), outcome
    assert quotas.project_of(upper) == number()
    quotas.set_project(upper, 0)
    assert quotas.project_of(upper) == 0
    inside("hog", "rmdir", "/out")


def leave_as_tenant(directory: str) -> bytes:
    """Leave the project as root of the sandbox, which owns the directory."""
    os.chdir(directory)
    fd = os.open(f"/proc/{pid()}/ns/user", os.O_RDONLY)
    namespaces.setns(fd, namespaces.CLONE_NEWUSER)
    os.setresuid(0, 0, 0)
    try:
        quotas.set_project(".", 0)
    except OSError as error:
        return errno.errorcode[error.errno or 0].encode()
    return b""


def test_changes() -> None:
    before = pid()
    assert run("64m") == ["hog: disk_size 33554432 -> 67108864", "hog: layer: limit to 64m"]
    assert "error" not in write("hog", "/more", 24)
    place = layers.place(SITE.sandbox("hog"))
    try:
        run("16m")
    except SpecError as error:
        assert "is less than what it holds (48" in str(error), error
    else:
        raise AssertionError("it shrank below its content")
    # Somebody changes the limit.
    quotas.set_limits(SITE.sandboxes, number(), 0, 0)
    assert run("64m") == ["hog: layer: limit to 64m"]
    assert run("64m") == []
    assert sizes.look(SITE, place).size == 64 * MIB
    assert run(None) == ["hog: disk_size 67108864 -> unset", "hog: layer: withdraw the limit"]
    assert "error" not in write("hog", "/much", 40)
    assert pid() == before


def test_first_size() -> None:
    """What the layer holds already is copied into the project, while the sandbox is stopped."""
    specs = normalise_all([{"name": "web", "disk_size": "96m", **SLEEP}])
    done = converge.converge(SITE, converge.request(specs))
    assert not done.failed, done.failed
    assert "web: layer: limit to 96m (restart)" in done.actions
    assert inside("web", "wc", "-c", "/mine").split()[0] == str(48 * MIB)
    assert QUOTA in write("web", "/fill", 96)


def test_removal() -> None:
    directory = SITE.sandboxes
    ours = list(projects.recorded(SITE))
    assert len(ours) == 2
    names = [{"name": name, "image": "busybox", "state": "absent"} for name in ("hog", "web")]
    done = converge.converge(SITE, converge.request(normalise_all(names)))
    assert not done.failed, done.failed
    assert projects.recorded(SITE) == {}
    for each in ours:
        assert quotas.limits(directory, each) == quotas.Limits(0, 0, 0, 0)


def prepare() -> None:
    os.makedirs(SITE.state, mode=0o700)
    os.makedirs(os.path.dirname(SITE.subuid))
    # The runtime of the guest, which is compiled.
    os.makedirs(os.path.dirname(SITE.lib))
    os.symlink("/usr/local/lib/sandlot", SITE.lib)
    subnet = {"name": "default", "ipv4_subnet": "10.79.0.0/24"}
    declare.save(SITE, network.normalise(SITE, [subnet]))
    wanted = images.normalise_all([{"name": "busybox", "source": "busybox"}])
    apply_all(images.operations(SITE, wanted, purge=False))


prepare()
try:
    for test in (
        test_full,
        test_inodes,
        test_a_tenant_stays_in_the_project,
        test_changes,
        test_first_size,
        test_removal,
    ):
        test()
finally:
    converge.converge(SITE, converge.request([], purge=True))
    Launcher(SITE).quit()
    apply_all(network.teardown_operations(SITE, network.observe(SITE)))
    apply_all(cgroups.teardown_operations(SITE, cgroups.observe(SITE, [])))
