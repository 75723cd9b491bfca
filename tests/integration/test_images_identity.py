# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What identifies a machine is each sandbox's own, whatever its image holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, deployed, needs_root, sandbox
from image_fixtures import BUSYBOX, output, prepare, run
from sandlot import images
from sandlot.sandbox import last_words

pytestmark = needs_root

ID = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\n")
BAKED = "0123456789abcdef0123456789abcdef\n"
KEY = "/etc/ssh/ssh_host_ed25519_key"
# As ssh-keygen -A does, it keeps a key that is there.
KEYGEN = f"""\
#!/bin/busybox sh
[ "$1" = -A ] || exit 9
[ -e {KEY} ] || cat /proc/sys/kernel/random/uuid > {KEY}
"""
STEPS = [
    {"dest": "/bin/ssh-keygen", "content": KEYGEN, "mode": "0755"},
    "mkdir -p /etc/ssh /var/lib/systemd /var/lib/dbus && ssh-keygen -A && touch /etc/ssh/config",
    f"echo {BAKED.strip()} > /etc/machine-id; cp /etc/machine-id /var/lib/dbus; chmod 444 {KEY}",
    "echo seed > /var/lib/systemd/random-seed; echo x > /etc/ssh/ssh_host_rsa_key.pub",
    {"dest": "/etc/ssh/ssh_host_given_key", "content": "given"},
]


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with deployed() as deployment:
        made = {"name": "made", "source": "busybox", "setup": STEPS}
        prepare(deployment, BUSYBOX, made)
        tree = Path(deployment.paths.root, "tree")
        subprocess.run(
            ["cp", "-a", images.lookup(deployment.paths, "busybox").root, tree], check=True
        )
        (tree / "etc/machine-id").write_text(BAKED)
        (tree / "etc/machine-id").chmod(0o444)
        baked = {"name": "baked", "source": "directory", "path": str(tree)}
        # Over an image that has keys and an id, which the setup replaces.
        (tree / "etc/ssh").mkdir()
        (tree / "etc/ssh/ssh_host_ed25519_key").write_text("baked")
        # The shell is found as the steps find it.
        moved = "mkdir -p /usr/local/bin && ln -s /bin/busybox /usr/local/bin/sh && rm /bin/sh"
        keys = [STEPS[0], f"rm {KEY} && ssh-keygen -A", moved]
        again = {"name": "again", "source": "directory", "path": str(tree), "setup": keys}
        prepare(deployment, BUSYBOX, made, baked, again)
        yield deployment


@pytest.fixture
def host(deployment: Deployment) -> Iterator[Deployment]:
    """With new layers in each test."""
    yield deployment
    deployment.run(purge=True)


def machine_id(host: Deployment, name: str) -> str:
    found = output(host, name, "cat", "/etc/machine-id")
    assert ID.fullmatch(found), found
    return found


def test_sandboxes_of_a_setup_share_no_identity(host: Deployment) -> None:
    host.converged(sandbox("a", image="made"), sandbox("b", image="made"))
    keys = [output(host, name, "cat", KEY) for name in ("a", "b")]
    assert len(set(keys)) == 2 and all(keys)
    assert machine_id(host, "a") != machine_id(host, "b")
    assert output(host, "a", "cat", "/var/lib/dbus/machine-id") == machine_id(host, "a")
    assert output(host, "a", "cat", "/etc/ssh/ssh_host_given_key") == "given"
    assert output(host, "a", "ls", "/etc/ssh", "/var/lib/systemd").split() == [
        *("/etc/ssh:", "config", "ssh_host_ed25519_key", "ssh_host_given_key"),
        "/var/lib/systemd:",
    ]
    before = machine_id(host, "a")
    host.run(sandbox("a", image="made", restart=True))
    assert (machine_id(host, "a"), output(host, "a", "cat", KEY)) == (before, keys[0])


def test_each_start_in_memory_is_a_first_one(host: Deployment) -> None:
    prepare(host, {"name": "memory", "source": "tmpfs", "size": "8m", "base": "made"})
    box = sandbox("a", image="memory")
    host.converged(box)
    first = [machine_id(host, "a"), output(host, "a", "cat", KEY)]
    host.run({**box, "restart": True})
    second = [machine_id(host, "a"), output(host, "a", "cat", KEY)]
    assert not set(first) & set(second)


def test_a_layer_over_an_image_with_keys_shows_none_of_them(host: Deployment) -> None:
    host.converged(sandbox("a", image="again"), sandbox("b", image="baked"))
    assert output(host, "b", "cat", KEY) == "baked"
    assert output(host, "a", "cat", KEY).count("-") == 4


@pytest.mark.parametrize("options", [{"user": "33"}, {"read_only": True}])
def test_a_machine_id_needs_no_rights_inside(host: Deployment, options: dict[str, object]) -> None:
    """Host keys do: root of the sandbox has to make them, in a root that can be written."""
    host.converged(sandbox("a", image="made", **options))
    assert machine_id(host, "a")
    assert run(host, "a", "cat", KEY).returncode


def test_an_id_that_an_image_brings_is_not_shared(host: Deployment) -> None:
    host.converged(sandbox("a", image="baked"), sandbox("b", image="baked"))
    assert machine_id(host, "a") != machine_id(host, "b")
    tree = Path(images.lookup(host.paths, "baked").root)
    assert (tree / "etc/machine-id").read_text() == BAKED


def test_an_id_behind_a_link_and_one_of_a_new_image(host: Deployment) -> None:
    tree = Path(host.paths.root, "linked")
    shutil.copytree(Path(host.paths.root, "tree"), tree, symlinks=True, dirs_exist_ok=True)
    (tree / "etc").rename(tree / "private")
    (tree / "etc").symlink_to("/private")
    linked = {"name": "linked", "source": "directory", "path": str(tree)}
    prepare(host, linked)
    both = [sandbox(name, image="linked") for name in ("a", "b")]
    host.converged(*both)
    first = machine_id(host, "a")
    assert first != machine_id(host, "b")
    # As a setup that installs D-Bus leaves it.
    (tree / "var/lib/dbus").mkdir(parents=True)
    (tree / "var/lib/dbus/machine-id").touch()
    prepare(host, linked)
    host.converged(*both)
    assert output(host, "a", "cat", "/etc/machine-id", "/var/lib/dbus/machine-id") == first * 2
    output(
        host,
        "a",
        "sh",
        "-c",
        "rm /etc/machine-id; cd /var/lib/dbus; rm machine-id; echo x > machine-id",
    )
    host.run(sandbox("a", image="linked", restart=True), both[1])
    assert run(host, "a", "test", "-e", "/etc/machine-id").returncode == 1
    assert output(host, "a", "cat", "/var/lib/dbus/machine-id") == "x\n"


def test_an_id_that_the_sandbox_changed_or_removed_stays_so(host: Deployment) -> None:
    host.converged(sandbox("a", image="baked"), sandbox("b", image="baked"))
    output(host, "a", "sh", "-c", f"rm /etc/machine-id; echo {BAKED.strip()} >/etc/machine-id")
    output(host, "b", "rm", "/etc/machine-id")
    host.run(sandbox("a", image="baked", restart=True), sandbox("b", image="baked", restart=True))
    assert output(host, "a", "cat", "/etc/machine-id") == BAKED
    assert run(host, "b", "test", "-e", "/etc/machine-id").returncode == 1


def test_keys_that_can_not_be_made_stop_no_workload(host: Deployment) -> None:
    broken = {"dest": "/bin/ssh-keygen", "content": "#!/bin/sh\necho no key; exit 3\n"}
    steps = [*STEPS, {**broken, "mode": "0755"}]
    prepare(host, {"name": "broken", "source": "busybox", "setup": steps})
    host.converged(sandbox("a", image="broken", command=["sh", "-c", "echo runs; sleep 99"]))
    log = last_words.last_log(host.paths.sandbox("a"), 3)
    assert log == ["no key", "sandlot: the first start ended with status 3", "runs"]
