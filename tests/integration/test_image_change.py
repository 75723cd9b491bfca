# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Another image below a sandbox: its layer is kept or not, and a bad image is taken back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from archives import entry, pack
from converge_fixtures import Deployment, needs_root, sandbox
from image_fixtures import output, prepare
from killing import killed_after
from oci_images import Layout, busybox_layer
from sandlot import converge, images
from sandlot.plan import apply_all
from sandlot.sandbox import record

pytestmark = needs_root
SERVE = ["sh", "-c", "test -e /etc/bad && exit 7; cat /etc/issue; exec sleep 1000000"]
NEW = {"etc/issue": "two\n", "etc/fresh": "image's\n", "etc/both": "same\n", "opt/a/b": "2\n"}
OLD = {"etc/issue": "one\n", "etc/both": "same\n", "opt/a/b": "1\n", "opt/stays": "1\n"}


def web(image: str, name: str = "a", **options: Any) -> dict[str, Any]:
    return sandbox(name, **{"image": image, "command": SERVE, **options})


class Images:
    """Images "one" and "two" of the host's directories, which tests change."""

    def __init__(self, host: Deployment, top: Path) -> None:
        self.host, self.trees = host, {}
        for name, files in (("one", OLD), ("two", {**NEW, "opt/stays": "1\n"})):
            self.trees[name] = top / name
            root = images.lookup(host.paths, "busybox").root
            shutil.copytree(root, self.trees[name], symlinks=True)
            for path, text in files.items():
                (self.trees[name] / path).parent.mkdir(parents=True, exist_ok=True)
                (self.trees[name] / path).write_text(text)
        self.refresh()

    def refresh(self) -> None:
        prepare(self.host, *(
            {"name": name, "source": "directory", "path": str(path)}
            for name, path in self.trees.items()
        ))  # fmt: skip


@pytest.fixture
def made(host: Deployment, tmp_path: Path) -> Images:
    return Images(host, tmp_path)


def write(host: Deployment, script: str, name: str = "a") -> None:
    output(host, name, "sh", "-ec", script)


def test_another_name_keeps_the_layer_and_tells_what_hides_a_change(
    host: Deployment, made: Images
) -> None:
    host.converged(web("one"))
    write(host, "echo mine >/mine; echo mine >/etc/issue; rm /etc/both; mkdir /srv; echo >/srv/x")
    write(host, "rm -r /opt; mkdir /opt; echo mine >/etc/fresh; ln -s /x /etc/link")
    ids, addresses = host.info("a")["ids"], host.info("a")["addresses"]
    checked, result = (host.run(web("two"), check=check) for check in (True, False))
    assert (
        checked.actions
        == result.actions
        == [
            "a: image one -> two, keeps its layer (restart)",
            "a: restart: image changed (restart)",
        ]
    )
    assert checked.diff == result.diff == {
        "before": {"a": {"image (restart)": "one"}}, "after": {"a": {"image (restart)": "two"}}
    }  # fmt: skip
    for facts in (checked.sandboxes["a"], result.sandboxes["a"]):
        assert facts["hidden_files"] == ["/etc/fresh", "/etc/issue", "/opt/a/b"]
        assert (facts["hidden_files_count"], facts["hidden_files_complete"]) == (3, True)
    line = "a: files of its layer hide what image two changed: /etc/fresh, /etc/issue, /opt/a/b; "
    assert [text for text in result.warnings if text.startswith(line)]
    assert list(checked.warnings) == list(result.warnings)
    assert output(host, "a", "cat", "/mine", "/etc/issue") == "mine\nmine\n"
    assert output(host, "a", "ls", "/opt") == ""
    after = host.info("a")
    assert (after["ids"], after["addresses"], after["image"]) == (ids, addresses, "two")
    # Nothing to tell of where the layer hides no change.
    write(host, "rm -r /etc/issue /etc/fresh /opt")
    quiet = host.converged(web("busybox"))
    assert "hidden_files" in quiet.sandboxes["a"] and quiet.sandboxes["a"]["hidden_files"] == []
    assert output(host, "a", "cat", "/mine") == "mine\n"


def test_fresh_is_a_rebuild(host: Deployment, made: Images) -> None:
    host.converged(web("one", on_image_change="fresh"))
    write(host, "echo mine >/mine")
    result = host.converged(web("two", on_image_change="fresh"))
    assert result.actions[0] == "a: image one -> two, gets a fresh layer (rebuild)"
    assert "hidden_files" not in result.sandboxes["a"]
    assert output(host, "a", "sh", "-c", "cat /etc/issue; test -e /mine || echo none") == (
        "two\nnone\n"
    )
    # The choice alone is no reason for anything.
    pid = host.pid("a")
    assert host.converged(web("two")).actions == ["a: on_image_change fresh -> unset"]
    assert host.pid("a") == pid and host.info("a")["on_image_change"] == "keep"


@pytest.mark.parametrize("choice", ["keep", "fresh"])
@pytest.mark.parametrize("harm", ["ends", "unhealthy"])
def test_a_bad_image_is_taken_back(host: Deployment, made: Images, choice: str, harm: str) -> None:
    options: dict[str, Any] = {"on_image_change": choice}
    if harm == "ends":
        (made.trees["two"] / "etc/bad").touch()
        cause = "exit code 7"
    else:
        check = {"test": "grep one /etc/issue", "interval": "100ms", "retries": 2}
        options["healthcheck"], cause = check, "unhealthy after 2 failed checks"
    made.refresh()
    host.run(web("one", **options), web("one", "b"))
    write(host, "echo mine >/mine")
    other = host.pid("b")
    result = host.run(web("two", **options), web("one", "b"))
    assert list(result.failed) == ["a"] and cause in result.failed["a"]
    assert "the old one runs again" in result.failed["a"]
    assert "hidden_files" not in result.sandboxes["a"]
    assert not [line for line in result.warnings if "hide" in line]
    assert output(host, "a", "cat", "/mine", "/etc/issue") == "mine\none\n"
    assert host.run(web("one", **options), web("one", "b")).actions == []
    assert host.pid("b") == other and host.info("a")["image"] == "one"


def test_a_directory_that_changes(host: Deployment, made: Images) -> None:
    """Its old content is gone, so nobody can tell what hides a change."""
    host.run(web("one"))
    write(host, "echo mine >/mine")
    (made.trees["one"] / "etc/issue").write_text("changed\n")
    made.refresh()
    result = host.converged(web("one"))
    assert "keeps its layer (restart)" in result.actions[0]
    assert "hidden_files" not in result.sandboxes["a"]
    assert output(host, "a", "cat", "/mine", "/etc/issue") == "mine\nchanged\n"


def test_a_layer_in_memory_and_back(host: Deployment, made: Images) -> None:
    """The layer on disk waits for the next image without one in memory."""
    specs = [
        {"name": name, "source": "directory", "path": str(path)}
        for name, path in made.trees.items()
    ]
    prepare(host, *specs, {"name": "brief", "source": "tmpfs", "base": "two"})
    host.run(web("one"))
    write(host, "echo mine >/mine")
    assert "keeps its layer" in host.run(web("brief")).actions[0]
    assert output(host, "a", "sh", "-c", "cat /etc/issue; test -e /mine || echo none") == (
        "two\nnone\n"
    )
    write(host, "echo >/lost")
    host.run(web("two"))
    assert output(host, "a", "sh", "-c", "cat /mine /etc/issue; ls /lost 2>&1 | wc -l") == (
        "mine\ntwo\n1\n"
    )


def test_many_at_once_and_who_depends_on_them(host: Deployment, made: Images) -> None:
    specs = {
        name: web("one", name, depends_on=needs)
        for name, needs in (("a", []), ("b", ["a"]), ("c", ["b"]))
    }
    host.run(*specs.values(), web("one", "d", on_image_change="fresh"))
    for name in ("a", "b", "c", "d"):
        write(host, "echo mine >/mine; echo x >/etc/issue", name)
    moved = [{**spec, "image": "two"} for spec in specs.values()]
    moved += [web("two", "d", on_image_change="fresh")]
    # Another order is no change; c stays on the old image.
    moved[2] = specs["c"]
    result = host.converged(*moved[::-1])
    assert {name: result.changes.get(name) for name in "abcd"} == {
        "a": "restarted", "b": "restarted", "c": None, "d": "rebuilt"
    }  # fmt: skip
    for name, kept in (("a", "mine"), ("b", "mine"), ("c", "mine"), ("d", "none")):
        script = "cat /mine 2>/dev/null || echo none"
        assert output(host, name, "sh", "-c", script) == f"{kept}\n"
        hidden = ["/etc/issue"] if name in "ab" else None
        assert result.sandboxes[name].get("hidden_files") == hidden


def test_a_layer_of_an_earlier_version_is_kept_until_there_is_a_fresh_one(
    host: Deployment, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")

    def publish(text: str) -> None:
        layout.image("x", [busybox_layer(), pack(entry("etc/issue", text.encode()))], {})
        prepare(host, {"name": "app", "source": "oci", "reference": f"oci:{layout.path}:x"})

    def seen() -> str:
        return output(host, "a", "sh", "-c", "cat /etc/issue /mine 2>/dev/null || echo none")

    publish("one\n")
    host.run(web("app"))
    assert host.info("a")["on_image_change"] == "fresh"
    known = record.load(host.paths, "a")
    assert known is not None and known.image.config.pop("on_image_change") == "fresh"
    record.save(host.paths, known)
    write(host, "echo mine >/mine")
    # An upgrade alone changes nothing, and neither does a boot.
    assert host.run(web("app")).actions == [] and converge.up(host.paths).actions == []
    publish("two\n")
    assert "keeps its layer (restart)" in host.converged(web("app")).actions[0]
    assert seen() == "two\nmine\n" and host.info("a")["on_image_change"] == "keep"
    assert not host.run(web("app"), recreate=True).failed
    write(host, "echo new >/mine")
    publish("three\n")
    assert "gets a fresh layer (rebuild)" in host.run(web("app")).actions[0]
    assert seen() == "three\nnone\n"


def test_a_killed_run_goes_on_and_can_go_back(host: Deployment, tmp_path: Path) -> None:
    """The old image's tree stays as long as somebody may go back to it."""
    prepare(host, {"name": "app", "source": "busybox", "setup": ["echo one >/etc/issue"]})
    old = images.lookup(host.paths, "app")
    host.converged(web("app"))
    write(host, "echo mine >/mine")
    previous = Path(host.paths.sandbox("a").previous)
    prepare(host, {"name": "app", "source": "busybox", "setup": ["touch /etc/bad"]})
    number, kept = 0, 0
    while killed_after(number := number + 3, lambda: host.run(web("app"))):
        kept += previous.exists()
        apply_all(images.prune_operations(host.paths))
        assert os.path.isdir(old.root)
        result = host.run(web("app"))
        assert "the old one runs again" in result.failed["a"]
        known = record.load(host.paths, "a")
        assert known is not None and known.image.digest == old.digest and not previous.exists()
        assert output(host, "a", "cat", "/mine", "/etc/issue") == "mine\none\n"
    assert kept
