# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Setup of images: what steps write is a layer, whatever they are; a failure leaves nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, deployed, eventually, needs_root, sandbox
from image_fixtures import BUSYBOX, output, prepare
from sandlot import converge, images, network
from sandlot.converge import throwaway
from sandlot.errors import SandlotError, SpecError
from sandlot.host import install as runtime_of_host
from sandlot.sandbox import names
from sandlot.snapshots import store as snapshots
from sandlot.spec import confinement

pytestmark = needs_root

SEEN = ("subuid", "subgid")


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with deployed() as found:
        yield found


@pytest.fixture
def host(deployment: Deployment) -> Iterator[Deployment]:
    """With the image busybox and nothing else, at the end of each test again."""
    yield deployment
    deployment.run(purge=True)
    prepare(deployment, BUSYBOX, purge=True)


def image(*steps: Any, **options: Any) -> dict[str, Any]:
    return {"name": "made", "source": "busybox", "setup": list(steps), **options}


def layer(host: Deployment, name: str = "made") -> Path:
    """The tree of the setup."""
    return Path(images.lookup(host.paths, name).root)


def shown(path: Path) -> str:
    status = path.lstat()
    return f"{status.st_mode & 0o7777:o} {status.st_uid}:{status.st_gid}"


def left(host: Deployment) -> list[str]:
    """Everything that a setup could leave behind, outside of the trees."""
    paths = host.paths
    found = [
        *os.listdir(paths.images),
        *os.listdir(paths.run),
        *os.listdir(f"{paths.images}/trees"),
    ]
    found += os.listdir(paths.sandboxes) if os.path.isdir(paths.sandboxes) else []
    found += sorted(names.known(paths))
    for name in SEEN:
        file = Path(paths.root, "etc", name)
        found += file.read_text().splitlines() if file.exists() else []
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    ours = f" master {paths.bridge('default')} "
    found += [line.split(":")[1] for line in links.stdout.splitlines() if ours in line]
    return sorted(found)


# -- what is kept


def test_what_steps_write_is_a_layer_with_owners_from_zero(host: Deployment) -> None:
    steps = [
        "mkdir -p /srv/deep/er; echo one > /srv/deep/er/file; chown 33:65534 /srv/deep/er/file",
        "ln /srv/deep/er/file /srv/again; ln -s /srv /link; echo x > /tool; chmod 6755 /tool",
        "rm /etc/shells; rm -r /var/www; mkdir /var/www; echo 1 > /var/www/new; mkfifo /fifo",
        {"command": ["sh", "-c", "echo $WORD $0 > /word", "zero"], "env": {"WORD": "a b"}},
        {"command": "sh -c 'id -u > /home/who'", "user": "0"},
        {"dest": "/srv/note", "content": "text\n", "mode": "0640", "owner": "7:8"},
        {"dest": "/link/through", "content": "x"},
        {"command": ["cat", "/srv/note", "/srv/through"]},
    ]
    prepare(host, BUSYBOX, image(*steps))
    root = layer(host)
    assert (root / "srv/deep/er/file").read_text() == "one\n"
    assert shown(root / "srv/deep/er/file") == "644 33:65534"
    assert (root / "srv/again").samefile(root / "srv/deep/er/file")
    assert os.readlink(root / "link") == "/srv"
    assert shown(root / "tool") == "6755 0:0"
    assert (root / "word").read_text() == "a b zero\n"
    assert shown(root / "srv/note") == "640 7:8"
    assert shown(root / "srv/through") == "644 0:0"
    assert os.getxattr(root / "var/www", "trusted.overlay.opaque") == b"y"
    assert (root / "etc/shells").lstat().st_rdev == 0 and not (root / "fifo").exists()
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["shells"]
    owners = {(p.lstat().st_uid, p.lstat().st_gid) for p in [root, *root.rglob("*")]}
    assert max(max(pair) for pair in owners) <= 65535
    facts = images.facts(host.paths, images.lookup(host.paths, "made"))
    assert facts["warnings"] == ["left out 'fifo': a socket or FIFO"]

    host.converged(sandbox("a", image="made"))
    assert output(host, "a", "cat", "/srv/through", "/var/www/new") == "x1\n"
    assert output(host, "a", "ls", "/etc").split() == [
        "group", "hostname", "hosts", "passwd", "resolv.conf",
    ]  # fmt: skip
    assert output(host, "a", "cat", "/etc/hostname") == "a\n"
    assert output(host, "a", "stat", "-c", "%u:%g", "/srv/note") == "7:8\n"
    host.run(sandbox("a", state="absent"))
    assert prepare(host, BUSYBOX, image(*steps)) == []


def test_links_of_the_image_outlive_what_is_mounted_over_them(host: Deployment) -> None:
    """The launcher replaces a link at /etc/resolv.conf in the layer, by an empty file."""
    tree = Path(host.paths.root, "linked")
    subprocess.run(["cp", "-a", images.lookup(host.paths, "busybox").root, tree], check=True)
    (tree / "etc/resolv.conf").symlink_to("../run/nothing")
    linked = {"name": "linked", "source": "directory", "path": str(tree), "setup": ["touch /new"]}
    prepare(host, BUSYBOX, linked)
    assert (layer(host, "linked") / "new").exists()
    assert not (layer(host, "linked") / "etc/resolv.conf").is_file()
    host.converged(sandbox("a", image="linked"))
    assert "nameserver" in output(host, "a", "cat", "/etc/resolv.conf")


def test_setup_over_the_hosts_own_root(host: Deployment) -> None:
    over = {"name": "over", "source": "host_overlay", "setup": ["echo 1 > /etc/mine"]}
    prepare(host, BUSYBOX, over)
    host.converged(sandbox("a", image="over"))
    assert output(host, "a", "cat", "/etc/mine") == "1\n"
    assert not os.path.exists("/etc/mine")


def test_steps_are_confined(host: Deployment) -> None:
    prepare(
        host,
        BUSYBOX,
        image(
            "cat /proc/self/status /proc/self/uid_map > /found; ip -o addr > /with",
            "while [ ! -s /found ]; do :; done; sleep 1000 &",
            "ps | grep -c '[s]leep 1000' > /left || :",
        ),
        {**image("ip -o addr > /without"), "name": "alone", "setup_network": "none"},
    )
    found = (layer(host) / "found").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in found if ":" in line)
    mask = confinement.mask(throwaway.CAPABILITIES)
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(fields[kind], 16) == mask
    assert (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()) == ("1", "2")
    assert int(found[-1].split()[1]) >= 100_000
    # A process that a step leaves behind ends with it.
    assert (layer(host) / "left").read_text() == "0\n"
    assert "eth0" in (layer(host) / "with").read_text()
    assert "eth0" not in (layer(host, "alone") / "without").read_text()


def test_a_check_takes_a_setup_as_made(host: Deployment) -> None:
    specs = images.normalise_all([image("touch /new")])
    planned = host.run(sandbox("a", image="made"), check=True, images=specs)
    assert planned.actions[0].startswith("image made: make ")
    assert planned.actions[1] == "a: create from made"
    assert "made" not in images.observe(host.paths)


# -- failures


FAILING = {
    "status": (["echo fine", "echo some; echo words >&2; exit 3"],
               r"setup step 2 of 2 \(echo some; .*\) ended with status 3:\nsome\nwords"),
    "silent": (["echo fine", "exit 4"], "ended with status 4 and said nothing"),
    "missing": ([{"command": ["/nothing"]}], r"\(/nothing\) can't be run: .*not found"),
    "killed": (["kill -KILL $$"], "ended with status 137"),
    "a directory": ([{"dest": "/etc", "content": ""}], r"\(write /etc\): Is a directory"),
    "below a file": ([{"dest": "/etc/passwd/x", "content": ""}], "no directory"),
    "a loop": (["ln -s /loop /loop", {"dest": "/loop/x", "content": ""}], "no directory"),
    "terminal": (["printf '\\033[31mred'; exit 1"], r"\n\\x1b\[31mred"),
}  # fmt: skip


@pytest.mark.parametrize("steps, message", FAILING.values(), ids=FAILING)
def test_a_step_that_fails_is_named_and_leaves_nothing(
    host: Deployment, steps: list[Any], message: str
) -> None:
    before = left(host)
    with pytest.raises(SandlotError, match=message) as caught:
        prepare(host, BUSYBOX, image(*steps))
    assert str(caught.value).startswith("image 'made': setup step")
    assert left(host) == before


def test_a_step_may_take_so_long(host: Deployment) -> None:
    before = left(host)
    with pytest.raises(SandlotError, match="took more than 1 seconds:\nwaiting; raise"):
        prepare(host, BUSYBOX, image("echo waiting; sleep 1000", setup_timeout=1))
    assert left(host) == before


def test_the_environment_is_in_no_message(host: Deployment) -> None:
    step = {"command": ["sh", "-c", "exit 1"], "env": {"TOKEN": "hidden-word"}}
    with pytest.raises(SandlotError) as caught:
        prepare(host, BUSYBOX, image(step))
    assert "hidden-word" not in str(caught.value)


def packed(host: Deployment, **bounds: Any) -> dict[str, Any]:
    """An image with bounds of its own."""
    archive = Path(host.paths.root, "busybox.tar")
    tree = images.lookup(host.paths, "busybox").root
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    plain = {"source": "tarball", "path": str(archive), "checksum": f"sha256:{digest}"}
    return {"name": "made", **plain, **bounds}


SPARSE = "dd if=/dev/null of=/big bs=1 seek=3221225472"
DEEP = "cd /; n=0; while [ $n -lt {} ]; do mkdir d; cd d; n=$((n+1)); done"
MANY = "mkdir /many; cd /many; n=0; while [ $n -lt {} ]; do : > $n; n=$((n+1)); done"
BOMBS = {
    "sparse": ({"max_size": "2g"}, SPARSE, "more than 2147483648 bytes"),
    "deep": ({}, DEEP.format(300), "more than 200 directories deep"),
    "many": ({"max_files": 1000}, MANY.format(1500), "more than 1000 files"),
}
TAME = {"deep": ({}, DEEP.format(150)), "many": ({"max_files": 5000}, MANY.format(1500))}


@pytest.mark.parametrize("bounds, step, message", BOMBS.values(), ids=BOMBS)
def test_what_is_kept_is_bounded(
    host: Deployment, bounds: dict[str, Any], step: str, message: str
) -> None:
    prepare(host, BUSYBOX, packed(host, **bounds))
    before = left(host)
    with pytest.raises(SandlotError, match=message):
        prepare(host, BUSYBOX, {**packed(host, **bounds), "setup": [step]})
    assert left(host) == before


@pytest.mark.parametrize("bounds, step", TAME.values(), ids=TAME)
def test_within_the_bounds_the_same_is_kept(
    host: Deployment, bounds: dict[str, Any], step: str
) -> None:
    prepare(host, BUSYBOX, {**packed(host, **bounds), "setup": [step]})


def test_names_of_throwaway_sandboxes_are_kept_for_them(host: Deployment) -> None:
    with pytest.raises(SpecError, match="is kept for setups of images"):
        host.run(sandbox("setup-" + "0a" * 16))


# -- other runs, and kills


BLOCKED = image("echo 1 > /begun; sleep 1000")


def started(host: Deployment, raw: dict[str, Any]) -> int:
    """A run of our own that is at the setup's step; its pid."""
    pid = forked(host, raw)
    eventually(lambda: bool(throwaways(host)) and begun(host, throwaways(host)[0]))
    return pid


def throwaways(host: Deployment) -> list[str]:
    return [name for name in names.known(host.paths) if name.startswith("setup-")]


def begun(host: Deployment, name: str) -> bool:
    return os.path.exists(f"{host.paths.sandbox(name).upper}/begun")


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_purge_leaves_a_running_setup_alone(host: Deployment) -> None:
    pid = started(host, BLOCKED)
    try:
        names = throwaways(host)
        assert host.run(purge=True).actions == []
        assert [n for n in throwaways(host) if not images.setup.is_running(host.paths, n)] == []
        assert throwaways(host) == names
        with pytest.raises(SandlotError, match=f"there are sandboxes on this host: {names[0]}"):
            runtime_of_host.absent(host.paths, check=False)
    finally:
        end(pid)
    # Its maker is dead, so it is a left-over now.
    assert host.run(purge=True).actions[0] == f"{names[0]}: remove"
    assert throwaways(host) == []


def test_the_next_run_cleans_up_after_a_kill(host: Deployment) -> None:
    before = left(host)
    end(started(host, BLOCKED))
    name = throwaways(host)[0]
    actions = prepare(host, BUSYBOX, purge=True)
    assert actions[0] == f"{name}: remove what an interrupted setup or job left"
    assert left(host) == before


def test_the_next_run_of_the_same_setup_begins_anew(host: Deployment) -> None:
    marker = "[ -e /begun ] || sleep 1000"
    end(started(host, image("echo 1 > /begun; sleep 1000", marker)))
    specs = images.normalise_all([image("echo 1 > /begun; sleep 1000", marker, setup_timeout=1)])
    with pytest.raises(SandlotError, match="step 1 of 2 .* took more than 1 seconds"):
        converge.converge(host.paths, converge.request(None, images=specs))
    assert throwaways(host) == []


def test_a_boot_removes_what_a_setup_left(host: Deployment) -> None:
    host.converged(sandbox("a"))
    end(started(host, BLOCKED))
    name = throwaways(host)[0]
    host.reboot()
    result = converge.up(host.paths)
    assert f"{name}: remove" in result.actions and "a: start" in result.actions
    assert throwaways(host) == []


def test_two_runs_do_the_work_once(host: Deployment) -> None:
    raw = image("cat /proc/sys/kernel/random/uuid > /id; sleep 1")
    pids = [forked(host, raw) for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0, 0]
    assert prepare(host, BUSYBOX, raw) == []
    assert len(os.listdir(f"{host.paths.images}/trees")) == 2


def forked(host: Deployment, raw: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            specs = images.normalise_all([BUSYBOX, raw])
            converge.converge(host.paths, converge.request(None, images=specs))
            code = 0
        finally:
            os._exit(code)
    return pid


# -- updates


def test_a_changed_setup_restarts_those_who_follow_and_keeps_their_layers(
    host: Deployment,
) -> None:
    prepare(host, BUSYBOX, image("echo 1 > /version"))
    first = images.lookup(host.paths, "made").digest
    follows, pinned = sandbox("a", image="made"), sandbox("b", image=f"made@sha256:{first}")
    host.converged(follows, pinned)
    for name in ("a", "b"):
        output(host, name, "sh", "-c", "echo kept > /own")
    stays = host.pid("b")
    assert prepare(host, BUSYBOX, image("echo 2 > /version"))[0].startswith("image made: replace")
    second = images.lookup(host.paths, "made").digest
    result = host.converged(follows, pinned)
    assert result.actions == [
        f"a: image updated, {first[:12]} -> {second[:12]}, keeps its layer (restart)",
        "a: restart: image updated (restart)",
    ]
    assert output(host, "a", "cat", "/version", "/own") == "2\nkept\n"
    assert output(host, "b", "cat", "/version", "/own") == "1\nkept\n"
    assert host.pid("b") == stays
    # The tree of the pinned one is in use.
    prepare(host, BUSYBOX, image("echo 2 > /version"), purge=True)
    host.run(follows, {**pinned, "restart": True})
    assert output(host, "b", "cat", "/version") == "1\n"
    host.run(follows, pinned, recreate=True)
    assert (
        output(host, "a", "sh", "-c", "cat /version; ls /own 2>&1 | wc -l; [ ! -e /own ]")[0] == "2"
    )
    assert output(host, "b", "sh", "-c", "cat /version; [ ! -e /own ]") == "1\n"
    # Not pinned any more, it follows at once and keeps its layer.
    output(host, "b", "sh", "-c", "echo kept > /own")
    host.converged(follows, {**pinned, "image": "made"})
    assert output(host, "b", "cat", "/version", "/own") == "2\nkept\n"
    # The snapshot of its old layer needs the tree.
    again = [BUSYBOX, image("echo 2 > /version")]
    assert not any(first[:12] in line for line in prepare(host, *again, purge=True))
    for snapshot in snapshots.load_all(host.paths).good:
        snapshots.remove(host.paths, snapshot.sandbox, snapshot.id)
    assert any(first[:12] in line for line in prepare(host, *again, purge=True))
    assert network.load(host.paths).keys() == {"default"}
    host.run(purge=True)
