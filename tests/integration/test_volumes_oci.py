# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""VOLUMEs of published images: a named volume of each sandbox, which keeps its files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import entry, folder, pack
from converge_fixtures import Deployment, needs_root
from image_fixtures import output, prepare
from killing import killed_after
from oci_images import Layout, busybox_layer
from sandlot import volumes
from sandlot.sandbox import mounts, record

pytestmark = needs_root
SLEEP = ["busybox", "sleep", "1000000"]
WEB = {"name": "web", "image": "app", "fail_on_crash": 0.3}
TARGET = "/var/lib/db"
Json = dict[str, Any]
Make = Callable[..., None]


@pytest.fixture
def make(host: Deployment, tmp_path: Path) -> Make:
    """Make the image anew, as a registry would have it; ``content`` is in its VOLUME."""
    layout = Layout(tmp_path / "layout")

    def image(content: bytes, *paths: str, cmd: list[str] | None = None) -> None:
        place, _ = folder("var/lib/db", 0o700)
        place.uid = place.gid = 33
        written = pack((place, _), entry("var/lib/db/first", content, uid=33, gid=33))
        settings = {"Cmd": cmd or SLEEP, "Volumes": dict.fromkeys(paths or (TARGET,), {})}
        layout.image("v", [busybox_layer(), written], settings)
        prepare(host, {"name": "app", "source": "oci", "reference": f"oci:{layout.path}:v"})

    return image


def data(host: Deployment) -> Path:
    (name,) = volumes.load_all(host.paths).good
    return Path(host.paths.volume(name).data)


def write(host: Deployment, name: str, text: str) -> None:
    output(host, "web", "busybox", "sh", "-c", f"echo {text} >{TARGET}/{name}")


def read(host: Deployment, name: str) -> str:
    return output(host, "web", "busybox", "cat", f"{TARGET}/{name}").strip()


def test_files_stay_over_recreate_and_another_image(host: Deployment, make: Make) -> None:
    make(b"one\n")
    checked = host.run(WEB, check=True)
    done = host.converged(WEB)
    assert checked.actions == done.actions
    (line,) = [line for line in done.actions if line.startswith("volume ")]
    assert line == f"volume {volumes.image_volume('web', TARGET)}: make, as web names it"
    facts = host.info("web")
    assert facts["volumes"] == {TARGET: volumes.image_volume("web", TARGET)}
    status = data(host).stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (33, 0o700)
    assert read(host, "first") == "one"
    write(host, "row", "1")
    host.run({**WEB, "recreate": True})
    assert read(host, "row") == "1"
    make(b"two\n")
    host.converged(WEB)
    assert (read(host, "row"), read(host, "first")) == ("1", "one")
    host.run({**WEB, "state": "absent"})
    host.converged(WEB)
    assert read(host, "row") == "1"


def test_what_an_earlier_version_kept_in_the_layer_moves_with_a_rebuild(
    host: Deployment, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(mounts, "image_targets", lambda record: [])
        host.converged(WEB)
    write(host, "row", "1")
    host.run({**WEB, "restart": True})
    assert host.converged(WEB).actions == []
    assert host.info("web")["volumes"] == {} and read(host, "row") == "1"
    # A rebuild that fails takes nothing with it: the old version goes on in its layer.
    make(b"two\n", cmd=["busybox", "false"])
    failed = host.run({**WEB, "recreate": True})
    assert "rolled back" in failed.failed["web"]
    write(host, "row", "2")
    make(b"three\n")
    assert not host.run({**WEB, "recreate": True}).failed
    assert (read(host, "row"), read(host, "first")) == ("2", "one")
    host.converged(WEB)
    known = record.load(host.paths, "web")
    assert known is not None and known.volumes == {TARGET: volumes.image_volume("web", TARGET)}
    volume = volumes.load(host.paths, known.volumes[TARGET])
    assert volume is not None and volume.populated and not volume.trial
    assert not os.path.exists(f"{host.paths.sandbox('web').upper}{TARGET}/row")


def test_a_mount_of_the_user_takes_the_place(host: Deployment, make: Make) -> None:
    make(b"one\n", TARGET, "/tmp/cache", "/proc/none")
    done = host.converged({**WEB, "volumes": [f"own:{TARGET}"], "tmpfs": ["/tmp"]})
    assert done.sandboxes["web"]["volumes"] == {TARGET: "own"}
    assert set(volumes.load_all(host.paths).good) == {"own"}
    assert read(host, "first") == "one"


def test_a_rebuild_that_is_killed_moves_no_stale_copy(
    host: Deployment, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SANDLOT_STRIDE=1 kills it after each of its steps, which takes a minute."""
    make(b"one\n")
    again = {**WEB, "recreate": True}
    stride = int(os.environ.get("SANDLOT_STRIDE", "11"))
    for number in range(stride, 100, stride):
        with monkeypatch.context() as patch:
            patch.setattr(mounts, "image_targets", lambda record: [])
            host.run(again)
        text = str(number)
        write(host, "row", text)
        if not killed_after(number, lambda: host.run(again)):
            break
        host.converged(WEB)
        moved = bool(host.info("web")["volumes"])
        assert read(host, "row") == text, number
        write(host, "row", f"later {text}")
        assert not host.run(again).failed
        assert read(host, "row") == f"later {text}", (number, moved)
        gone = [{"name": volumes.image_volume("web", TARGET), "state": "absent", "force": True}]
        host.run({**WEB, "state": "absent"}, volumes=volumes.normalise(gone))
