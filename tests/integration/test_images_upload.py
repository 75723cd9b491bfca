# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Archives on the controller: copied to hosts that lack the image, and only to them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import session_trees
from archives import one_file
from sandlot import images
from sandlot.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
REPOSITORY = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent


class Controller:
    """Plays the role with the repository's ansible.cfg; ``executions`` counts commands on hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths = Site(str(directory / "root"))
        self.executions = 0
        (directory / "files").mkdir()
        (directory / "root").mkdir()
        session_trees.release(self.paths)

    def wish(self, content: bytes, **options: str) -> dict[str, str]:
        data = one_file(content)
        (self.directory / "files" / "a.tar.gz").write_bytes(data)
        checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
        raw = {"name": "t", "source": "tarball", "src": "a.tar.gz", "checksum": checksum}
        return {**raw, **options}

    def play(self, *wishes: dict[str, str], flags: tuple[str, ...] = (), **environment: str) -> str:
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"sandbox_images": list(wishes)},
            "roles": ["sandbox_rootfs"],
        }
        (self.directory / "play.yml").write_text(json.dumps([play]))
        command = [str(BINARIES / "ansible-playbook"), "-i", "localhost,", "-c", "local", "-vvv"]
        command += ["-e", f"ansible_python_interpreter={sys.executable}", *flags]
        command += [str(self.directory / "play.yml")]
        done = subprocess.run(
            command,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.directory / "local"),
                "ANSIBLE_REMOTE_TEMP": str(self.directory / "remote"),
                "SANDLOT_ROOT": self.paths.root,
                **environment,
            },
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
        self.executions = done.stdout.count("> EXEC ")
        return done.stdout + done.stderr

    def content(self) -> bytes:
        return Path(images.lookup(self.paths, "t").root, "f").read_bytes()

    def left(self) -> list[str]:
        remote = self.directory / "remote"
        return [*os.listdir(remote)] if remote.exists() else []


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_an_archive_is_copied_once(controller: Controller) -> None:
    output = controller.play(controller.wish(b"one"))
    assert "changed=1" in output and controller.content() == b"one"
    assert "image t made (0.0 MB in " in output
    assert controller.left() == []
    output = controller.play(controller.wish(b"one"))
    assert "changed=0" in output and "failed=0" in output and "image t made" not in output
    # One module, through a pipe: no directory, no copy.
    assert controller.executions == 1
    output = controller.play(controller.wish(b"two"))
    assert "changed=1" in output and "image t replaced (" in output
    assert controller.content() == b"two"


def test_an_image_is_kept_without_its_archive(controller: Controller) -> None:
    wish = controller.wish(b"one")
    controller.play(wish)
    (controller.directory / "files" / "a.tar.gz").unlink()
    assert "changed=0" in controller.play(wish)
    output = controller.play({**wish, "name": "other"})
    # The tree is there, whatever its name.
    assert "changed=1" in output and controller.executions == 1


def test_check_mode_copies_nothing(controller: Controller) -> None:
    output = controller.play(controller.wish(b"one"), flags=("--check",))
    assert "changed=1" in output and controller.executions == 1
    assert not os.path.exists(controller.paths.state)


@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_a_bad_archive_is_told(controller: Controller, kind: str) -> None:
    wish = controller.wish(b"one")
    path = controller.directory / "files" / "a.tar.gz"
    path.unlink()
    if kind == "damaged":
        path.write_bytes(b"<html>")
    output = controller.play(wish)
    expected = "has the checksum" if kind == "damaged" else "Could not find or access 'a.tar.gz'"
    assert "failed=1" in output and expected in output.replace("\n", " ")
    assert images.observe(controller.paths) == {} and controller.left() == []


def test_without_the_action_plugin_the_remedy_is_told(controller: Controller) -> None:
    output = controller.play(
        controller.wish(b"one"), ANSIBLE_ACTION_PLUGINS=str(controller.directory)
    )
    assert "the action plugin of this module did not run" in output
    assert images.observe(controller.paths) == {}


def test_what_is_malformed_is_refused_by_the_module(controller: Controller) -> None:
    output = controller.play(controller.wish(b"one", path="/x"))
    assert "has both path and src; give one of them" in output.replace("\n", " ")
