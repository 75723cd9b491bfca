# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "host_overlay": the host's programs without its secrets, and writes that stay inside.

The controls look at the same things through a mask that covers nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from image_fixtures import output, prepare, run
from sandlot.build import host_mask
from sandlot.errors import SpecError
from sandlot.site import Site

pytestmark = needs_root

IMAGE = {"name": "this", "source": "host_overlay"}
IDS = {"uid": 200000, "gid": 200000, "size": 65536}
IDLE = ["/usr/bin/sleep", "1000000"]


@pytest.fixture
def secrets() -> Iterator[list[str]]:
    """Files as an administrator leaves them, all readable by the host's root only."""
    places = (
        *("/etc", "/usr/local", "/usr/share", "/usr/lib"),
        *("/root", "/home", "/srv", "/var/lib", "/opt"),
    )
    with contextlib.ExitStack() as stack:
        found = []
        for place in places:
            if os.path.isdir(place):
                directory = stack.enter_context(
                    tempfile.TemporaryDirectory(dir=place, prefix="sandlot-test-")
                )
                os.chmod(directory, 0o755)
                path = Path(directory, "key")
                path.write_text("SECRET\n")
                path.chmod(0o600)
                found.append(str(path))
        yield found


def test_the_host_s_programs_and_a_layer_of_its_own(host: Deployment) -> None:
    prepare(host, IMAGE)
    result = host.converged(sandbox("a", image="this", command=IDLE))
    assert result.relaxed == {"a": ["image: this (the host's programs and configuration)"]}
    assert output(host, "a", "python3", "-c", "print(6 * 7)") == "42\n"
    assert output(host, "a", "id", "-un") == "root\n"
    before = Path("/etc/issue").read_text()
    output(host, "a", "sh", "-c", "echo mine > /etc/issue; rm /usr/bin/busybox; mkdir /usr/new")
    assert output(host, "a", "cat", "/etc/issue") == "mine\n"
    assert Path("/etc/issue").read_text() == before
    assert os.path.exists("/usr/bin/busybox") and not os.path.exists("/usr/new")
    assert output(host, "a", "stat", "-c", "%u:%a", "/root", "/tmp", "/usr") == (
        "0:700\n0:1777\n0:755\n"
    )


def read_all(host: Deployment, name: str, paths: list[str]) -> list[str]:
    """Which of these files the sandbox's root can read."""
    return [path for path in paths if run(host, name, "cat", path).returncode == 0]


def test_secrets_are_hidden(
    host: Deployment, secrets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ["/etc/shadow", "/etc/gshadow", "/root/.bashrc", "/etc/machine-id", *secrets]
    paths = [path for path in known if os.path.isfile(path)]
    assert len(paths) >= 10
    prepare(host, IMAGE, {**IMAGE, "name": "weak", "show": sorted({*_tops(paths), *paths})})
    host.converged(sandbox("a", image="this", command=IDLE))
    assert read_all(host, "a", paths) == []
    # Control: file modes alone would have protected nothing.
    host.converged(sandbox("weak", image="weak", command=IDLE))
    assert read_all(host, "weak", paths) == paths


def test_what_others_can_t_read_is_hidden_also_when_it_comes_later(host: Deployment) -> None:
    """Whatever the capabilities; the control is a file that others can read."""
    prepare(host, IMAGE)
    capable = ["DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "CHOWN"]
    host.converged(sandbox("a", image="this", command=IDLE, capabilities=capable))
    with tempfile.TemporaryDirectory(dir="/usr/share", prefix="sandlot-test-") as directory:
        os.chmod(directory, 0o755)
        for name, mode in {"closed": 0o600, "group": 0o640, "open": 0o644}.items():
            Path(directory, name).write_text("SECRET\n")
            os.chmod(f"{directory}/{name}", mode)
        os.makedirs(f"{directory}/private", mode=0o750)
        Path(directory, "private", "open").write_text("SECRET\n")
        tricks = "chmod 644 closed", "ln group link", "cp closed copy", "mv closed moved"
        steps = 'cd "$0"', "cat *", *tricks, "cat *", "ls private", "cat private/open"
        done = run(host, "a", "sh", "-c", "; ".join(steps), directory)
        assert done.stdout == "SECRET\n" * 2, done.stderr
        left = output(host, "a", "sh", "-c", 'cd "$0"; echo mine > new; rm open; ls', directory)
        assert left == "closed\ngroup\nnew\nprivate\n"
        assert sorted(os.listdir(directory)) == ["closed", "group", "open", "private"]


def _tops(paths: list[str]) -> list[str]:
    """Directories that the secrets lie in, beyond those which are shown anyway."""
    return [os.path.dirname(path) for path in paths if not path.startswith(("/etc/", "/usr/"))]


def test_a_tenant_can_not_lift_the_host_mask(host: Deployment, secrets: list[str]) -> None:
    prepare(host, IMAGE)
    host.converged(sandbox("a", image="this", command=IDLE, capabilities=["SYS_ADMIN", "MKNOD"]))
    for path in secrets:
        script = 'mkdir -p "$(dirname "$0")"; : > "$0"; rm "$0"; cat "$0"; ls "$(dirname "$0")"'
        done = run(host, "a", "sh", "-c", script, path)
        assert "SECRET" not in done.stdout + done.stderr
        assert Path(path).read_text() == "SECRET\n"
    tops = output(host, "a", "sh", "-c", "ls -A /home /srv /mnt /var/lib /root")
    kept = [name for name in os.listdir("/var/lib") if not name.startswith("sandlot-test-")]
    assert kept and not [name for name in kept if name in tops.split()]


def test_sandlot_s_state_and_other_sandboxes_are_hidden(host: Deployment) -> None:
    prepare(host, IMAGE)
    host.converged(sandbox("a", image="this", command=IDLE), sandbox("b"))
    assert os.path.exists(host.paths.state) and os.path.exists(host.paths.run)
    for path in (host.paths.state, host.paths.run, "/var/lib/sandlot", "/run/sandlot"):
        assert run(host, "a", "ls", path).returncode == 2


def test_show_and_hide(host: Deployment, secrets: list[str]) -> None:
    shown = next(path for path in secrets if path.startswith("/srv"))
    beside = Path(shown).parent / "other"
    beside.write_text("other\n")
    plain = sandbox("a", image="this", command=IDLE)
    prepare(host, IMAGE)
    host.converged(plain)
    assert read_all(host, "a", [shown, str(beside), "/etc/issue"]) == ["/etc/issue"]
    prepare(host, {**IMAGE, "show": [shown], "hide": ["/etc/issue", "/etc/no-such-file"]})
    result = host.converged(plain)
    assert f"image: this (the host's {shown})" in result.relaxed["a"]
    assert read_all(host, "a", [shown, str(beside), "/etc/issue"]) == [shown]
    prepare(host, IMAGE)
    host.converged(plain)
    assert read_all(host, "a", [shown, str(beside), "/etc/issue"]) == ["/etc/issue"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"show": ["/"]}, "show: '/' is the whole host"),
        ({"show": ["/var/lib/sandlot"]}, "show: '/var/lib/sandlot' is never shown"),
        ({"show": ["/var/lib/sandlot/images/trees"]}, "show: .*is never shown"),
        ({"show": ["/run/sandlot/a"]}, "show: .*is never shown"),
        ({"show": ["srv"]}, "show"),
        ({"hide": ["../x"]}, "hide"),
    ],
)
def test_what_can_t_be_shown(host: Deployment, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prepare(host, {**IMAGE, **options})


# -- the host mask alone --------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc/deep/er", "usr/local/bin", "var/lib/sandlot", "srv/a/b", "strange", "home/u"):
        (tmp_path / name).mkdir(parents=True)
    for name, mode in {"etc/open": 0o644, "etc/deep/er/key": 0o640, "etc/shadow": 0o640}.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "vmlinuz").touch()
    (tmp_path / "lib").symlink_to("usr/lib")
    return tmp_path


def shown(root: Path, part: str = "mask", **choice: list[str]) -> dict[str, str]:
    found = host_mask.entries(part, IDS, choice, str(root))
    kinds = {each.path: "whiteout" if each.mode is None else "merged" for each in found}
    kinds.update({each.path: "opaque" for each in found if each.opaque})
    return kinds


def test_what_the_host_mask_covers(root: Path) -> None:
    (root / "usr/local/bin/closed").touch(mode=0o600)
    found = shown(root)
    assert found["etc/deep/er/key"] == found["etc/shadow"] == found["vmlinuz"] == "whiteout"
    assert found["strange"] == found["srv"] == found["home"] == found["var"] == "opaque"
    assert found["etc"] == found["etc/deep/er"] == "merged"
    assert "etc/open" not in found and "usr" not in found and "lib" not in found
    assert found["etc/ssl"] == "merged" if (root / "etc/ssl").exists() else "etc/ssl" not in found


def test_a_way_to_what_is_shown(root: Path) -> None:
    (root / "srv/a/c").mkdir()
    (root / "srv/d").touch()
    found = shown(root, show=["/srv/a/b", "/etc/deep/er/key"])
    assert found["srv"] == found["srv/a"] == "merged"
    assert found["srv/a/c"] == found["srv/d"] == "whiteout"
    assert "srv/a/b" not in found and "etc/deep/er/key" not in found


def test_a_shown_path_is_in_one_of_the_lower_layers(root: Path) -> None:
    (root / "etc/private/deep").mkdir(parents=True)
    (root / "etc/private/deep/key").touch()
    (root / "etc/private/other").touch()
    (root / "etc/private").chmod(0o700)
    show = ["/srv/a", "/etc/deep/er/key", "/etc/private/deep/key"]
    ways = shown(root, "ways", show=show)
    assert ways["srv"] == ways["etc/deep/er"] == ways["etc/private/deep"] == "merged"
    assert ways["usr"] == ways["etc/open"] == ways["etc/private/other"] == "whiteout"
    assert not {"srv/a", "etc/deep/er/key", "etc/private/deep/key"} & set(ways)
    rest = shown(root, "rest", show=show)
    assert rest["srv"] == rest["etc/deep/er/key"] == rest["etc/private"] == "whiteout"
    assert rest["etc/deep/er"] == "merged" and "usr" not in rest
    mask = shown(root, show=show)
    assert mask["etc/private/other"] == "whiteout" and "etc/private/deep/key" not in mask


def test_parents_come_first_and_nothing_twice(root: Path) -> None:
    found = [
        each.path for each in host_mask.entries("mask", IDS, {"hide": ["/etc/open"]}, str(root))
    ]
    assert len(found) == len(set(found)) and found[0] == "."
    for number, path in enumerate(found):
        parent = os.path.dirname(path)
        assert not parent or parent in found[:number]


def test_a_name_that_leads_out_is_no_way(root: Path) -> None:
    """A link on the way to what is asked for is covered, not followed."""
    (root / "srv/out").symlink_to("/etc")
    found = shown(root, show=["/srv/out/shadow"])
    assert found["srv/out"] == "whiteout"


def test_the_host_mask_is_made_as_planned() -> None:
    entries = host_mask.entries("mask", IDS, {})
    fd = host_mask.make(entries)
    try:
        for each in entries:
            status = os.stat(each.path, dir_fd=fd, follow_symlinks=False)
            if each.mode is None:
                assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            else:
                assert stat.S_IMODE(status.st_mode) == each.mode
                assert (status.st_uid, status.st_gid) == each.owner
    finally:
        os.close(fd)


def test_explain_prints_the_host_mask(host: Deployment) -> None:
    prepare(host, IMAGE, {"name": "t", "source": "tmpfs", "size": "2m", "mode": "0711"})
    host.converged(sandbox("a", image="this", command=IDLE), sandbox("b", image="t"))
    script = explained(host.paths, "a")
    assert 'mknod "$scratch/root/host_mask"/etc/shadow c 0 0' in script
    assert "setpriv --bounding-set=-all,+sys_admin mount -t overlay" in script
    assert (
        'setfattr --name=trusted.overlay.opaque --value=y "$scratch/root/host_mask"/home' in script
    )
    script = explained(host.paths, "b")
    assert f'mount -t tmpfs -o size={2 << 20},mode=0711 none "$scratch/layer"' in script


def explained(paths: Site, name: str) -> str:
    environment = {**os.environ, "SANDLOT_ROOT": paths.root}
    command = [paths.command, "explain", name]
    script = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    checked = subprocess.run(
        ["shellcheck", "--severity=warning", "-"],
        input=script.stdout,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    return script.stdout
