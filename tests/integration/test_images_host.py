# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sources "host", "directory" and "tmpfs": sandboxes of what the host has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from image_fixtures import BUSYBOX, output, prepare, run
from sandlot import images, store
from sandlot.errors import SandlotError, SpecError
from sandlot.images import programs, provenance

pytestmark = needs_root


@pytest.fixture
def tree(host: Deployment, tmp_path: Path) -> Path:
    """A root file system of the user's own."""
    found = tmp_path / "tree"
    shutil.copytree(images.lookup(host.paths, "busybox").root, found, symlinks=True)
    (found / "etc/motd").write_text("first\n")
    return found


# -- host -----------------------------------------------------------------------------------------

TOOLS = {"name": "tools", "source": "host", "programs": ["bash", "sleep"]}


def test_programs_of_the_host_run(host: Deployment) -> None:
    prepare(host, {**TOOLS, "packages": ["coreutils"], "files": ["/etc/services"]})
    host.converged(sandbox("a", image="tools", command=["sleep", "1000000"]))
    assert output(host, "a", "bash", "-c", 'echo "$((6 * 7))" $BASH') == "42 /usr/bin/bash\n"
    assert output(host, "a", "sha256sum", "/dev/null").startswith("e3b0c44298fc1c14")
    assert output(host, "a", "id", "-un") == "root\n"
    assert output(host, "a", "head", "-c", "1", "/etc/services") == "#"
    # Nothing else of the host came along.
    assert run(host, "a", "ls", "/usr/bin/python3").returncode == 2


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Not below /tmp, which is another one inside."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="sandlot-test-") as directory:
        yield Path(directory)


def test_a_script_brings_its_interpreter(host: Deployment, elsewhere: Path) -> None:
    script = elsewhere / "greet"
    script.write_text("#!/usr/bin/env bash\necho hello from $0\n")
    script.chmod(0o755)
    prepare(host, {"name": "s", "source": "host", "programs": [str(script), "sleep"]})
    host.converged(sandbox("a", image="s", command=["sleep", "1000000"]))
    assert output(host, "a", str(script)) == f"hello from {script}\n"


def test_the_tree_of_programs_is_root_s_and_sets_no_ids(host: Deployment) -> None:
    prepare(host, {"name": "s", "source": "host", "programs": ["passwd", "su"]})
    root = images.lookup(host.paths, "s").root
    assert os.stat("/usr/bin/passwd").st_mode & 0o4000  # else this shows nothing
    for options in (["-perm", "/7000", "-not", "-name", "tmp"], ["-not", "-uid", "0"]):
        assert subprocess.check_output(["find", root, "-not", "-type", "l", *options]) == b""


def test_unchanged_programs_are_not_read_again(
    host: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(host, TOOLS)
    read: list[str] = []
    real = provenance.content_digest
    monkeypatch.setattr(provenance, "content_digest", lambda path: read.append(path) or real(path))
    specs = images.normalise_all([TOOLS, BUSYBOX])
    assert images.operations(host.paths, specs) == [] and read == []
    path = f"{host.paths.images}/tools.json"
    record = store.read(path)
    assert record
    record["evidence"]["/usr/bin/bash"][1] += 1  # as if it had been written to
    store.write(path, record)
    assert images.operations(host.paths, specs) == [] and read == ["/usr/bin/bash"]


def test_a_changed_program_is_another_image(host: Deployment, elsewhere: Path) -> None:
    mine = elsewhere / "mine"
    shutil.copy("/usr/bin/busybox", mine)
    spec = {"name": "s", "source": "host", "programs": [str(mine)]}
    prepare(host, spec)
    old = images.lookup(host.paths, "s").digest
    with open(mine, "ab") as handle:
        handle.write(b"newer")
    assert prepare(host, spec)[0].endswith("from host (restart)")
    assert images.lookup(host.paths, "s").digest != old


@pytest.mark.parametrize(
    "options, message",
    [
        ({"programs": ["no-such-program"]}, "programs: 'no-such-program' is no program of this"),
        ({"packages": ["no-such-package"]}, "packages: .*is no installed package"),
        ({"programs": ["sh"], "files": ["/no/such"]}, "files: '/no/such' is not on this host"),
        ({"programs": ["sh"], "files": ["/dev/null"]}, "files: '/dev/null' can't be seen inside"),
        ({"programs": ["/tmp/x"]}, r"programs: '/tmp/x' can't be seen inside"),
        ({"programs": ["bin/sh"]}, "programs: 'bin/sh' is no program"),
        ({"packages": ["-x"]}, "packages: .*is no name of a Debian package"),
        ({}, "has neither programs nor packages"),
    ],
)
def test_what_the_host_does_not_have_is_named(
    host: Deployment, options: dict, message: str
) -> None:
    before = sorted(os.listdir(host.paths.images))
    with pytest.raises(SandlotError, match=message):
        prepare(host, {"name": "s", "source": "host", **options})
    assert sorted(os.listdir(host.paths.images)) == before


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    source = tmp_path / "x.c"
    source.write_text("int f(void); int main(void) { return f(); }")
    (tmp_path / "f.c").write_text("int f(void) { return 0; }")
    library = tmp_path / "libmine.so"
    subprocess.run(["gcc", "-shared", "-o", library, tmp_path / "f.c"], check=True)
    program = tmp_path / "x"
    subprocess.run(["gcc", "-o", program, source, library], check=True)
    found = programs.Found()
    found.program(str(program))
    assert str(library) in found.files
    library.unlink()
    with pytest.raises(SandlotError, match="libmine.so"):
        programs.Found().program(str(program))


# -- directory ------------------------------------------------------------------------------------


def test_a_directory_is_read_and_never_written(host: Deployment, tree: Path) -> None:
    before = subprocess.check_output(["find", tree, "-printf", "%p %m %U %s %T@ %C@\n"])
    prepare(host, {"name": "d", "source": "directory", "path": str(tree)})
    host.converged(sandbox("a", image="d"))
    assert output(host, "a", "cat", "/etc/motd") == "first\n"
    output(host, "a", "sh", "-c", "echo mine > /etc/motd; rm -r /var/www; mkdir /new")
    assert output(host, "a", "cat", "/etc/motd") == "mine\n"
    assert subprocess.check_output(["find", tree, "-printf", "%p %m %U %s %T@ %C@\n"]) == before
    prepare(host, purge=False)
    host.converged(purge=True)
    prepare(host, BUSYBOX, purge=True)
    assert (tree / "etc/motd").read_text() == "first\n"


def test_a_changed_directory_restarts_its_sandbox_and_keeps_its_layer(
    host: Deployment, tree: Path
) -> None:
    spec = {"name": "d", "source": "directory", "path": str(tree)}
    prepare(host, spec)
    host.converged(sandbox("a", image="d"))
    output(host, "a", "touch", "/mine")
    pid = host.pid("a")
    assert prepare(host, spec) == []
    (tree / "etc/motd").write_text("second\n")
    prepare(host, spec)
    result = host.converged(sandbox("a", image="d"))
    assert [line for line in result.actions if "image updated" in line]
    assert host.pid("a") != pid
    assert output(host, "a", "cat", "/etc/motd", "/mine") == "second\n"


def test_a_pinned_sandbox_stays(host: Deployment, tree: Path) -> None:
    spec = {"name": "d", "source": "directory", "path": str(tree)}
    prepare(host, spec)
    digest = images.lookup(host.paths, "d").digest
    host.converged(sandbox("a", image=f"d@sha256:{digest[:16]}"), sandbox("b", image="d"))
    pids = host.pid("a"), host.pid("b")
    (tree / "new").touch()
    prepare(host, spec)
    host.converged(sandbox("a", image=f"d@sha256:{digest[:16]}"), sandbox("b", image="d"))
    assert host.pid("a") == pids[0] and host.pid("b") != pids[1]
    with pytest.raises(SpecError, match="is not what the image has become"):
        host.run(sandbox("c", image=f"d@sha256:{digest}"))


@pytest.mark.parametrize("kind", ["missing", "file", "link at the top", "dev is a link"])
def test_a_directory_that_can_t_be_a_root(host: Deployment, tree: Path, kind: str) -> None:
    path = tree
    if kind == "missing":
        path = tree / "no"
    elif kind == "file":
        path = tree / "etc/motd"
    elif kind == "link at the top":
        path = tree.parent / "link"
        path.symlink_to(tree)
    else:
        shutil.rmtree(tree / "dev")
        (tree / "dev").symlink_to("/dev")
    with pytest.raises(SpecError, match="path: "):
        prepare(host, {"name": "d", "source": "directory", "path": str(path)})


# -- tmpfs ----------------------------------------------------------------------------------------


def test_an_ephemeral_root(host: Deployment) -> None:
    prepare(host, {"name": "t", "source": "tmpfs", "size": "1m", "mode": "0711"})
    host.converged(sandbox("a", image="t"))
    assert output(host, "a", "stat", "-c", "%a %u", "/") == "711 0\n"
    output(host, "a", "sh", "-c", "echo x > /kept; rm /etc/group")
    full = run(host, "a", "dd", "if=/dev/zero", "of=/big", "bs=64k", "count=100")
    assert full.returncode and "No space left" in full.stderr
    host.converged(sandbox("a", image="t", state="stopped"))
    host.converged(sandbox("a", image="t"))
    assert run(host, "a", "cat", "/kept").returncode == 1
    assert output(host, "a", "head", "-n", "1", "/etc/group") == "root:x:0:\n"
    # Nothing of it was on the disk.
    assert os.listdir(host.paths.sandbox("a").upper) == []


def test_an_ephemeral_layer_over_an_image(host: Deployment, tree: Path) -> None:
    directory = {"name": "d", "source": "directory", "path": str(tree)}
    ephemeral = {"name": "t", "source": "tmpfs", "base": "d"}
    prepare(host, directory, ephemeral)
    host.converged(sandbox("a", image="t"))
    assert output(host, "a", "cat", "/etc/motd") == "first\n"
    (tree / "etc/motd").write_text("second\n")
    assert len(prepare(host, directory, ephemeral)) == 2
    host.converged(sandbox("a", image="t"))
    assert output(host, "a", "cat", "/etc/motd") == "second\n"


def test_sizes_and_modes_count(host: Deployment) -> None:
    spec = {"name": "t", "source": "tmpfs"}
    prepare(host, spec)
    found = images.lookup(host.paths, "t")
    assert found.tmpfs == f"size={64 << 20},mode=0755"
    assert prepare(host, {**spec, "size": "32m"}) and prepare(host, {**spec, "mode": "0700"})
    assert prepare(host, spec)
    assert images.lookup(host.paths, "t") == found


@pytest.mark.parametrize(
    "options, message",
    [
        ({"base": "nothing"}, "base: 'nothing' is not an image of this host"),
        ({"base": "t"}, "base: 't' is not an image of this host"),
        ({"size": "1"}, "size"),
        ({"mode": "rwx"}, "mode: .*is no mode"),
        ({"setup": ["true"]}, "setup"),
    ],
)
def test_ephemeral_roots_that_can_t_be(host: Deployment, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prepare(host, {"name": "t", "source": "tmpfs", **options})


def test_no_ephemeral_root_on_another(host: Deployment) -> None:
    first = {"name": "first", "source": "tmpfs"}
    with pytest.raises(SpecError, match="base: 'first' is in memory itself"):
        prepare(host, first, {"name": "t", "source": "tmpfs", "base": "first"})


def test_facts_of_images(host: Deployment, tree: Path) -> None:
    began = time.time()
    prepare(host, TOOLS, {"name": "d", "source": "directory", "path": str(tree)})
    for name in ("tools", "d", "busybox"):
        image = images.lookup(host.paths, name)
        assert image.size > 500_000
        assert name == "busybox" or began - 1 <= image.made <= time.time()
