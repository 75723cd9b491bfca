# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot images: the list, what is being made, and prune."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_server import Server
from sandlot import converge, images, store
from sandlot.images import busybox, progress
from sandlot.site import Site
from test_images_download import ARCHIVE, paths, server, wish

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(busybox.find() is None, reason="no busybox"),
]
__all__ = ["paths", "server"]
FORK = multiprocessing.get_context("fork")
ENGINE = Path(__file__).resolve().parents[2] / "module_utils"
BUSYBOX = {"name": "busybox", "source": "busybox"}
COMMAND = [
    sys.executable,
    "-c",
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sandlot.cli import main; exit(main())",
    str(ENGINE),
    "images",
]


def environment(paths: Site) -> dict[str, str]:
    return {**os.environ, "SANDLOT_ROOT": paths.root}


def sandlot(paths: Site, *words: str) -> str:
    done = subprocess.run(
        [*COMMAND, *words], env=environment(paths), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(paths: Site, *raw: dict) -> None:
    wanted = converge.request(None, images=images.normalise_all(list(raw)))
    converge.converge(paths, wanted)


def use(paths: Site, name: str, image: str) -> None:
    os.makedirs(paths.sandbox(name).state)
    found = images.lookup(paths, image)
    ids = {"uid": 200000, "gid": 200000, "size": 65536}
    record = {"image": {"name": image, "digest": found.digest, "layers": list(found.layers)}}
    store.write(paths.sandbox(name).record, {**record, "ids": ids})


@contextlib.contextmanager
def making(paths: Site, *raw: dict) -> Iterator[multiprocessing.Process]:
    job = FORK.Process(target=apply, args=(paths, *raw))
    job.start()
    try:
        yield job
    finally:
        job.kill()
        job.join()


def downloading(server: Server, job: multiprocessing.Process) -> None:
    """Until a part has arrived and the rest does not."""
    assert server.stalled.wait(60) and job.is_alive()


# -- the list -------------------------------------------------------------------------------------


def test_nothing_yet(paths: Site) -> None:
    assert sandlot(paths).split() == list("NAME SOURCE SIZE DIGEST LAYERS USED-BY AGE".split())
    assert json.loads(sandlot(paths, "--format", "json")) == []
    assert sandlot(paths, "--watch") == "" and not os.path.exists(paths.root)


def test_the_list(paths: Site, server: Server) -> None:
    apply(paths, BUSYBOX, wish(server))
    for name in ("a", "b", "c", "d"):
        use(paths, name, "busybox")
    rows = [line.split("  ") for line in sandlot(paths).splitlines()]
    cells = {row[0]: [cell.strip() for cell in row if cell.strip()] for row in rows}
    assert cells["busybox"][1] == "busybox" and "a,b,c and 1 more" in cells["busybox"]
    assert cells["t"][1:4] == ["tarball", "3.0M", images.lookup(paths, "t").digest[:12]]
    found = {each["name"]: each for each in json.loads(sandlot(paths, "--format", "json"))}
    assert found["busybox"]["used_by"] == ["a", "b", "c", "d"] and found["t"]["used_by"] == []
    assert found["t"]["size"] == 3 << 20 and found["t"]["progress"] is None
    assert found["t"]["layers"] == list(images.lookup(paths, "t").layers)


def test_what_is_being_made_is_listed(paths: Site, server: Server) -> None:
    server.script = ["stall 1048576"]
    with making(paths, wish(server), BUSYBOX) as job:
        downloading(server, job)
        found = {each["name"]: each for each in json.loads(sandlot(paths, "--format", "json"))}
        assert found["t"]["progress"]["phase"] == "download"
        assert found["t"]["progress"]["total"] == len(ARCHIVE)
        assert found["t"]["progress"].keys() >= {"rate", "left"}
        assert found["busybox"]["progress"]["phase"] == "queued"
        assert "\nt: download " in sandlot(paths) and "\nbusybox: queued" in sandlot(paths)
    assert job.exitcode == -signal.SIGKILL
    assert "download" not in sandlot(paths)


def test_rate_percentage_and_estimate() -> None:
    from sandlot.cli.progress import line

    each = {"name": "t", "phase": "download", "done": 3 << 20, "total": 4 << 20}
    times = {"phase_started": 100.0, "now": 102.0, "phase_from": 1 << 20}
    assert line({**each, **times}) == "t: download 75% 3.0M of 4.0M, 1.0M/s, 1s left"
    assert line({**each, **times, "total": 0}) == "t: download 3.0M, 1.0M/s"
    assert line({**each, "done": 0, "total": 0}) == "t: download"
    # A server that sends more than it announced.
    assert line({**each, **times, "total": 2 << 20}) == "t: download 150% 3.0M of 2.0M, 1.0M/s"


# -- watching -------------------------------------------------------------------------------------


@contextlib.contextmanager
def watching(paths: Site, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "--watch", *words]
    with subprocess.Popen(
        command, env=environment(paths), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_watch_follows_until_all_is_made(paths: Site, server: Server) -> None:
    """It does not take the gap between two images for the end."""
    server.files["/b"] = ARCHIVE
    other = wish(server, name="u", url=f"{server.url}/b", checksum=wish(server)["checksum"])
    server.script = ["stall 1048576"]
    with making(paths, wish(server), other, BUSYBOX) as job:
        downloading(server, job)
        with watching(paths) as watch:
            assert watch.stdout
            first = {watch.stdout.readline() for _ in range(3)}
            assert "busybox: queued\n" in first and "u: queued\n" in first
            assert any(text.startswith("t: download ") for text in first)
            server.released.set()
            output = watch.stdout.read().splitlines()
            assert watch.wait(60) == 0
        job.join()
    assert {"t: done, 3.0M", "busybox: done, 1.9M"} <= {text[:19].strip() for text in output} | set(
        output
    )
    assert not os.path.exists(progress.directory(paths))


def test_watch_as_json(paths: Site, server: Server) -> None:
    server.script = ["stall 1048576"]
    with making(paths, wish(server)) as job:
        downloading(server, job)
        with watching(paths, "--format", "json") as watch:
            assert watch.stdout
            first = json.loads(watch.stdout.readline())
            assert (first["name"], first["phase"]) == ("t", "download") and "rate" in first
            server.released.set()
            last = json.loads(watch.stdout.read().splitlines()[-1])
    assert last == {"name": "t", "phase": "done", "size": 3 << 20}


def test_watch_ends_with_a_killed_maker(paths: Site, server: Server) -> None:
    server.script = ["stall 1048576"]
    with making(paths, wish(server)) as job:
        downloading(server, job)
        with watching(paths) as watch:
            assert watch.stdout and watch.stdout.readline().startswith("t: download")
            job.kill()
            job.join()
            assert watch.stdout.read().splitlines()[-1] == "t: ended" and watch.wait(60) == 0


def test_watch_redraws_on_a_terminal(paths: Site, server: Server) -> None:
    server.script = ["stall 1048576"]
    with making(paths, wish(server)) as job:
        downloading(server, job)
        ours, theirs = pty.openpty()
        command = [*COMMAND, "--watch"]
        with subprocess.Popen(command, env=environment(paths), stdout=theirs) as watch:
            os.close(theirs)
            output = os.read(ours, 4096)
            assert output.startswith(b"t: download") and output.endswith(b"\r\n\x1b[J")
            server.released.set()
            with contextlib.suppress(OSError):  # EIO: the other side is closed
                while data := os.read(ours, 4096):
                    output += data
        os.close(ours)
    assert watch.returncode == 0
    assert b"\x1b[1A\r" in output and b"t: done, 3.0M\x1b[K" in output


# -- prune ----------------------------------------------------------------------------------------


def test_prune(paths: Site, server: Server) -> None:
    apply(paths, BUSYBOX, wish(server))
    use(paths, "web", "busybox")
    old = images.lookup(paths, "t")
    assert sandlot(paths, "prune") == "nothing to remove\n"
    os.unlink(f"{paths.images}/t.json")
    assert json.loads(sandlot(paths, "prune", "--format", "json")) == {
        "changed": True,
        "actions": [f"images: remove unused {old.digest[:12]}"],
    }
    assert not os.path.exists(old.root) and os.path.isdir(images.lookup(paths, "busybox").root)
    apply(paths, wish(server))
    assert sandlot(paths, "prune") == "nothing to remove\n"
    assert f"image t: remove {old.digest[:12]}" in sandlot(paths, "prune", "--all")
    assert list(images.observe(paths)) == ["busybox"] and not os.path.exists(old.root)
    shutil.rmtree(paths.sandbox("web").state)
    sandlot(paths, "prune", "--all")
    assert images.observe(paths) == {} and os.listdir(f"{paths.images}/trees") == []
