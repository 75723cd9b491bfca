# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images that lie on the host; images, servers and tools that lie."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import entry, pack
from oci_fixtures import (
    BASE,
    OTHER,
    SECOND,
    content,
    converge,
    everything,
    layout,
    needs_registry,
    own,
    paths,
    plan,
    served,
    wish,
    wrapped,
)
from oci_images import (
    ARCHITECTURE,
    CONFIG,
    LAYER,
    MANIFEST,
    Layout,
    Registry,
    compressed,
    skopeo,
)
from sandboxes import until
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.host import facts
from sandlot.images import store as image_store
from sandlot.images.oci import skopeo as client
from sandlot.images.oci.manifest import ImageError
from sandlot.images.tarstream import ArchiveError
from sandlot.site import Site

__all__ = ["layout", "own", "paths", "served", "wrapped"]
pytestmark = needs_registry
FORK = multiprocessing.get_context("fork")

# -- what lies on the host ------------------------------------------------------------------------


def test_an_oci_layout(paths: Site, layout: Layout) -> None:
    digest = layout.image("v1", [BASE])
    image = converge(paths, wish(f"oci:{layout.path}"))
    assert (image.digest, content(image)) == (digest[7:], {"a/1": "one", "a/2": "two"})
    layout.image("v2", [SECOND])
    with pytest.raises(ImageError, match="none of its 2 images, which have v1, v2"):
        plan(paths, wish(f"oci:{layout.path}"))
    assert content(converge(paths, wish(f"oci:{layout.path}:v2"))) == {"b": "b"}
    with pytest.raises(ImageError, match="which have v1, v2"):
        plan(paths, wish(f"oci:{layout.path}:v3"))
    new = layout.image("v2", [BASE, SECOND])
    assert converge(paths, wish(f"oci:{layout.path}:v2")).digest == new[7:]
    shutil.rmtree(layout.path)
    assert plan(paths, wish(f"oci:{layout.path}:v2")) == []


def test_a_layout_of_several_platforms(paths: Site, layout: Layout) -> None:
    mine = layout.image("mine", [BASE])
    other = layout.image("other", [SECOND], architecture=OTHER)
    layout.index("v1", {f"linux/{OTHER}": other, f"linux/{ARCHITECTURE}": mine})
    assert converge(paths, wish(f"oci:{layout.path}:v1")).digest == mine[7:]
    image = converge(paths, wish(f"oci:{layout.path}:v1", platform=f"linux/{OTHER}"))
    assert (image.digest, content(image)) == (other[7:], {"b": "b"})


def test_an_oci_archive(paths: Site, layout: Layout, tmp_path: Path) -> None:
    digest = layout.image("v1", [BASE])
    archive = tmp_path / "x.tar"
    skopeo("copy", f"oci:{layout.path}:v1", f"oci-archive:{archive}:v1")
    for reference in (f"oci-archive:{archive}", f"oci-archive:{archive}:v1"):
        image = converge(paths, wish(reference))
        assert (image.digest, content(image)) == (digest[7:], {"a/1": "one", "a/2": "two"})


def test_a_docker_archive(paths: Site, layout: Layout, tmp_path: Path) -> None:
    layout.image("v1", [BASE, SECOND], {"Cmd": ["/b"]})
    archive = tmp_path / "x.tar"
    skopeo("copy", f"oci:{layout.path}:v1", f"docker-archive:{archive}:some/name:v1")
    with tarfile.open(archive) as saved:
        listed = saved.extractfile("manifest.json")
        assert listed
        identity = json.load(listed)[0]["Config"].partition(".")[0]
    for tag in ("", ":some/name:v1", ":docker.io/some/name:v1", ":@0"):
        image = converge(paths, wish(f"docker-archive:{archive}{tag}"))
        assert (image.digest, image.config) == (identity, {"command": ["/b"]})
        assert content(image) == {"a/2": "two", "b": "b"}
    with pytest.raises(ImageError, match="which have docker.io/some/name:v1"):
        plan(paths, wish(f"docker-archive:{archive}:another"))
    archive.unlink()
    assert plan(paths, wish(f"docker-archive:{archive}:@0")) == []


def test_what_is_not_there(paths: Site, tmp_path: Path) -> None:
    for reference in (f"oci:{tmp_path}/none:v1", f"docker-archive:{tmp_path}/none.tar"):
        assert plan(paths, wish(reference)) == ["image x: make from oci"]
        with pytest.raises(SpecError, match="reference: .* is not there"):
            converge(paths, wish(reference))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "no file manifest.json"),
        (b"x" * 2000, "corrupt"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (compressed(BASE), "compressed with gzip.*decompress it"),
        (BASE, "no file manifest.json"),
        (pack(entry("manifest.json", b"{")), "not JSON"),
        (pack(entry("manifest.json", b"[{}]")), "names no config"),
        (pack(entry("manifest.json", b"[5]")), "names no config"),
        (pack(entry("manifest.json", b'[{"Config": "../../etc/shadow"}]')), "no file ../../etc"),
        (pack(entry("manifest.json", b'[{"RepoTags": 5}, {"RepoTags": [5]}]')), "none of its 2"),
        (pack(entry("manifest.json", b"x" * (5 << 20))), "more than"),
    ],
)
def test_archives_that_are_none(paths: Site, tmp_path: Path, data: bytes, message: str) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(data)
    with pytest.raises((ArchiveError, ImageError), match=f"image 'x': docker-archive.*{message}"):
        plan(paths, wish(f"docker-archive:{archive}"))
    assert everything(paths) == []


# -- images that are wrong ------------------------------------------------------------------------


def _changed(layout: Layout, **changes: Any) -> str:
    """An image whose manifest is changed after it was made."""
    name = layout.image("v1", [BASE]).partition(":")[2]
    manifest = json.loads((layout.path / "blobs/sha256" / name).read_bytes())
    layout.tag("v1", layout.blob(json.dumps({**manifest, **changes}).encode(), MANIFEST))
    return f"oci:{layout.path}:v1"


def _config(layout: Layout, data: bytes) -> str:
    return _changed(layout, config=layout.blob(data, CONFIG))


WRONG: dict[str, tuple[Callable[[Layout], str], str]] = {
    "config that is no JSON": (lambda at: _config(at, b"x"), "config of image 'x'.*not JSON"),
    "config that is a list": (lambda at: _config(at, b"[]"), "not a JSON object"),
    "config without layers": (
        lambda at: _config(at, b'{"os": "linux"}'),
        "not an? image|is for linux/None|diff_ids",
    ),
    "other layers": (
        lambda at: _named(at, {}, rootfs={"diff_ids": ["sha256:" + "0" * 64]}),
        "layer 1: its content has the digest",
    ),
    "more layers": (lambda at: _named(at, {}, rootfs={"diff_ids": []}), "digests of its 1 layers"),
    "another system": (lambda at: _named(at, {}, os="windows"), "is for windows/"),
    "many layers": (
        lambda at: _tagged(at, at.image("v1", [BASE] * 129)),
        "129 layers, more than 128",
    ),
    "no files": (lambda at: _tagged(at, at.image("v1", [pack()])), "no files"),
    "a layer that leaves": (
        lambda at: _tagged(at, at.image("v1", [pack(entry("../x", b"x"))])),
        "layer 1: member '../x' .*leaves the image",
    ),
    "a damaged layer": (
        lambda at: _tagged(
            at, at.image("v1", [BASE], compress=lambda data: compressed(data)[:-20])
        ),
        "layer 1 is truncated or corrupt",
    ),
}


def _named(layout: Layout, settings: dict[str, Any], **changes: Any) -> str:
    layout.image("v1", [BASE], settings, **changes)
    return f"oci:{layout.path}:v1"


def _cut(data: bytes) -> bytes:
    return compressed(data)[:-20]


def _tagged(layout: Layout, name: str) -> str:
    return f"oci:{layout.path}:v1"


@pytest.mark.parametrize("make, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_images_are_one_error(
    paths: Site, layout: Layout, make: Callable[[Layout], str], message: str
) -> None:
    with pytest.raises(SandlotError, match=message) as caught:
        converge(paths, wish(make(layout)))
    assert caught.value.hint
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_bounds(paths: Site, layout: Layout, served: Registry) -> None:
    layout.image("v1", [pack(entry("f", os.urandom(200_000)))])
    reference = served.push(layout, "v1", "bounds:v1")
    with pytest.raises(ArchiveError, match="layer 1: it unpacks to more than.*raise max_size"):
        converge(paths, wish(reference, max_size=100_000))
    layout.image("large", [pack(entry("f", os.urandom(17 << 20)))], compress=bytes, kind=LAYER)
    large = served.push(layout, "large", "bounds:large")
    with pytest.raises(ImageError, match="bytes of layers, more than max_size.*raise max_size"):
        converge(paths, wish(large, max_size=100_000))
    with pytest.raises(ArchiveError, match="more than 5 members.*raise max_files"):
        many = pack(*(entry(str(number)) for number in range(6)))
        layout.image("v2", [many])
        converge(paths, wish(served.push(layout, "v2", "bounds:v2"), max_files=5))
    assert converge(paths, wish(reference, max_size=200_000))


# -- tools and servers that lie -------------------------------------------------------------------

TAMPER = """
"$real" "$@" || exit
for last; do :; done
case "$*" in *copy*) cd "${last#dir:}" || exit
%s
;; esac
"""
TAMPERED = {
    "the manifest": ("echo >>manifest.json", "is sha256:.*, not sha256:"),
    "the config": (
        "for f in *; do grep -q rootfs $f || continue; sed -i s/diff_ids/Diff_ids/ $f; done",
        "its config is not what its manifest says",
    ),
    "a layer": (
        "for f in *; do [ $(od -An -tx1 -N2 $f | tr -d ' ') = 1f8b ] || continue; "
        "printf x | gzip >$f; done",
        "layer 1",
    ),
}


@pytest.mark.parametrize("script, message", TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_brought_is_verified(
    paths: Site,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    script: str,
    message: str,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "tampered:v1")
    wrapped(TAMPER % script)
    with pytest.raises(SandlotError, match=message):
        converge(paths, wish(reference))
    assert [Path(name).name for name in everything(paths)] == ["trees"]
    wrapped(TAMPER % "")
    assert converge(paths, wish(reference))


def running(word: str) -> list[str]:
    """Processes, in whatever pid namespace, that have this argument."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def test_a_server_that_stops_sending(
    paths: Site,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "stalled:v1")
    seen = wrapped(
        'case "$*" in *copy*) exec sh -c "sleep 1000; :" $here/waits;; esac; exec $real "$@"'
    )
    monkeypatch.setattr(client, "_STALLED_SECONDS", 0.5)
    with pytest.raises(HostError, match="has sent nothing for"):
        converge(paths, wish(reference))
    until(lambda: not running(f"{seen}/waits"))
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_a_server_that_sends_too_much(
    paths: Site,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "flood:v1")
    wrapped(
        'for last; do :; done; case "$*" in *copy*) mkdir "${last#dir:}"; '
        'exec cat /dev/zero >"${last#dir:}/blob";; esac; exec $real "$@"'
    )
    monkeypatch.setattr(client, "_SLACK", 1 << 20)
    with pytest.raises(HostError, match="sends more than the .* bytes that its manifest tells"):
        converge(paths, wish(reference))
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_a_run_killed_while_it_fetches(
    paths: Site, layout: Layout, served: Registry, wrapped: Callable[[str], Path]
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "killed:v1")
    seen = wrapped(
        'case "$*" in *copy*) exec sh -c "sleep 1000; :" $here/waits;; esac; exec $real "$@"'
    )
    run = FORK.Process(target=converge, args=(paths, wish(reference)))
    run.start()
    until(lambda: running(f"{seen}/waits"))
    assert run.pid
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    until(lambda: not running(f"{seen}/waits"))
    assert any("/.tmp-" in name for name in everything(paths))
    wrapped('exec $real "$@"')
    assert plan(paths, wish(reference))[0] == "images: clean up after an interrupted run"
    converge(paths, wish(reference))
    assert not any("/.tmp-" in name for name in everything(paths))


def test_two_runs_fetch_once(paths: Site, layout: Layout, own: Registry) -> None:
    layout.image("v1", [pack(entry("f", os.urandom(1 << 20)))])
    reference = own.push(layout, "v1", "once:v1")
    runs = [FORK.Process(target=converge, args=(paths, wish(reference))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    fetched = [line for line in own.log().splitlines() if '"GET /v2/once/blobs/' in line]
    assert len(fetched) == len({line.split()[6] for line in fetched}) == 2


def test_a_host_without_skopeo(
    paths: Site, layout: Layout, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "tool:v1")
    assert "skopeo" not in facts.gather(paths, ["oci"])["missing_packages"]
    monkeypatch.setattr(client, "PATH", "/nonexistent")
    assert "skopeo" in facts.gather(paths, ["busybox", "oci"])["missing_packages"]
    assert "skopeo" not in facts.gather(paths, ["busybox"])["missing_packages"]
    assert plan(paths, wish(reference)) == ["image x: make from oci"]
    with pytest.raises(HostError, match="no skopeo.*apt install skopeo"):
        converge(paths, wish(reference))
    assert image_store.prune_operations(paths) == []


def test_a_missing_source_is_named(paths: Site) -> None:
    with pytest.raises(SpecError, match=r"image_sources\[1\]: 'docker' is not a choice"):
        facts.known_sources("image_sources", ["oci", "docker"])
