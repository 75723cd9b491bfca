# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images from a real registry, OCI layouts and docker save archives; servers and tools that lie."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_images import (
    ARCHITECTURE,
    CONFIG,
    LAYER,
    MANIFEST,
    Layout,
    Registry,
    certificate,
    compressed,
    entry,
    folder,
    layer,
    password_file,
    registry,
    skopeo,
)
from sandboxes import until, wait_dead
from sandlot import images
from sandlot.converge import facts
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.images import store as image_store
from sandlot.images.oci import skopeo as client
from sandlot.images.oci.manifest import ImageError
from sandlot.images.tarstream import ArchiveError
from sandlot.paths import Paths
from sandlot.plan import Change, apply_all, descriptions

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="no docker-registry"),
]
FORK = multiprocessing.get_context("fork")
OTHER = "arm64" if ARCHITECTURE == "amd64" else "amd64"
SECRET = "s3cret-of-the-test"
BASE = layer(folder("a"), entry("a/1", b"one"), entry("a/2", b"two"))
SECOND = layer(entry("a/.wh.1"), entry("b", b"b"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "root"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Registry]:
    """A registry of the test's own, for those that stop it or read its log."""
    with registry(tmp_path / "registry") as found:
        yield found


def wish(reference: str, **options: Any) -> dict[str, Any]:
    insecure = (
        {} if reference.partition(":")[0].startswith(("oci", "docker")) else {"tls_verify": False}
    )
    return {"name": "x", "source": "oci", "reference": reference, **insecure, **options}


def plan(paths: Paths, *raw: dict[str, Any]) -> list[str]:
    return descriptions(images.operations(paths, images.normalise_all(list(raw))))


def converge(paths: Paths, *raw: dict[str, Any]) -> images.Image:
    """The first one as it is then; a second run has nothing to do."""
    apply_all(images.operations(paths, images.normalise_all(list(raw))))
    assert plan(paths, *raw) == []
    return images.lookup(paths, raw[0]["name"])


def content(image: images.Image) -> dict[str, str]:
    root = Path(image.root)
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def everything(paths: Paths) -> list[str]:
    if not os.path.isdir(paths.images):
        return []
    return sorted(str(path) for path in Path(paths.images).rglob("*"))


# -- registries -----------------------------------------------------------------------------------


def test_an_image_from_a_registry(paths: Paths, layout: Layout, served: Registry) -> None:
    settings = {"Entrypoint": ["/b"], "Env": ["A=1"], "User": "33", "ExposedPorts": {"80/tcp": {}}}
    digest = layout.image("v1", [BASE, SECOND], settings)
    reference = served.push(layout, "v1", "some/name:v1")
    assert plan(paths, wish(reference)) == [f"image x: make {digest[7:19]} from oci"]
    assert everything(paths) == []
    image = converge(paths, wish(reference))
    assert image.digest == digest.partition(":")[2]
    assert content(image) == {"a/2": "two", "b": "b"}
    assert image.config == {
        "entrypoint": ["/b"], "env": {"A": "1"}, "user": "33", "exposed_ports": ["80/tcp"],
    }  # fmt: skip
    assert images.facts(paths, image)["parameters"]["reference"] == reference
    inside = [name for name in everything(paths) if not name.startswith(f"{image.root}/")]
    assert [Path(name).name for name in inside] == [
        "trees", image.digest, "about.json", "root", "x.json",
    ]  # fmt: skip


def test_what_is_there_is_not_asked_for_again(paths: Paths, layout: Layout, own: Registry) -> None:
    layout.image("v1", [BASE])
    reference = own.push(layout, "v1", "n:v1")
    converge(paths, wish(reference))
    asked = own.requests()
    assert asked
    for pull in ({}, {"pull": "missing"}, {"pull": "never"}):
        assert plan(paths, wish(reference, **pull)) == []
        assert plan(paths, wish(f"docker://{reference}", **pull)) == []
    assert own.requests() == asked
    own.stop()
    assert plan(paths, wish(reference)) == []
    # Not even to make again what was lost can it be had now; what is known stays recorded.
    with pytest.raises(HostError, match=r"n:v1: .*connection refused"):
        plan(paths, wish(reference, pull="always"))


def test_a_tag_that_moves(paths: Paths, layout: Layout, served: Registry) -> None:
    old = layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "moves:v1")
    first = converge(paths, wish(reference))
    new = layout.image("v1", [BASE, SECOND])
    served.push(layout, "v1", "moves:v1")
    assert plan(paths, wish(reference)) == []
    always = wish(reference, pull="always")
    planned = images.operations(paths, images.normalise_all([always]))
    assert descriptions(planned)[0] == f"image x: replace {new[7:19]} from oci (restart)"
    assert planned[0].change is Change.RESTART
    second = converge(paths, always)
    assert (first.digest, second.digest) == (old[7:], new[7:])
    assert content(second) == {"a/2": "two", "b": "b"}
    # The old one can still be had by its digest, which is never asked for twice.
    asked = wish(f"{served.address}/moves@{old}", pull="always")
    assert converge(paths, asked).digest == old[7:]


def test_never_means_never(paths: Paths, layout: Layout, served: Registry) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "never:v1")
    with pytest.raises(SpecError, match="pull: 'never' but image 'x'.*not on this host"):
        plan(paths, wish(reference, pull="never"))


def test_a_lost_tree_is_fetched_by_its_digest(
    paths: Paths, layout: Layout, served: Registry
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "lost:v1")
    image = converge(paths, wish(reference))
    shutil.rmtree(os.path.dirname(image.root))
    layout.image("v1", [SECOND])
    served.push(layout, "v1", "lost:v1")
    assert plan(paths, wish(reference)) == [f"image x: make again {image.digest[:12]} from oci"]
    assert content(converge(paths, wish(reference))) == {"a/1": "one", "a/2": "two"}


def test_the_host_chooses_its_platform(paths: Paths, layout: Layout, served: Registry) -> None:
    mine = layout.image("mine", [BASE])
    other = layout.image("other", [SECOND], architecture=OTHER)
    both = layout.index("v1", {f"linux/{OTHER}": other, f"linux/{ARCHITECTURE}": mine})
    reference = served.push(layout, "v1", "list:v1")
    assert converge(paths, wish(reference)).digest == mine[7:]
    pinned = f"{served.address}/list@{both}"
    assert converge(paths, wish(pinned)).digest == mine[7:]
    image = converge(paths, wish(pinned, platform=f"linux/{OTHER}"))
    assert (image.digest, content(image)) == (other[7:], {"b": "b"})
    with pytest.raises(SandlotError, match="nothing for linux/s390x, but for linux/amd64, linux/"):
        plan(paths, wish(reference, platform="linux/s390x"))


def test_an_image_for_another_platform_is_told(
    paths: Paths, layout: Layout, served: Registry
) -> None:
    layout.image("v1", [BASE], architecture=OTHER)
    reference = served.push(layout, "v1", "foreign:v1")
    with pytest.raises(
        ImageError, match=f"is for linux/{OTHER}, not .*set platform: linux/{OTHER}"
    ):
        converge(paths, wish(reference))
    assert [name for name in everything(paths) if not name.endswith("trees")] == []
    assert converge(paths, wish(reference, platform=f"linux/{OTHER}"))


def test_names_that_lead_nowhere(paths: Paths, layout: Layout, served: Registry) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "here:v1")
    for other, message in (
        (f"{served.address}/here:v2", "manifest unknown.*check name and tag"),
        (f"{served.address}/nowhere:v1", "check"),
        (f"{served.address}/here@sha256:{'0' * 64}", "manifest unknown"),
        ("127.0.0.1:1/x:y", "connection refused.*check the reference"),
    ):
        with pytest.raises(HostError, match=f"image 'x': {other}: .*{message}"):
            plan(paths, wish(other))
    with pytest.raises(HostError, match="tls_verify: false"):
        plan(paths, wish(reference, tls_verify=True))
    assert everything(paths) == []


def test_docker_manifests(paths: Paths, layout: Layout, served: Registry) -> None:
    """What docker pushes: other media types, the same layers."""
    layout.image("v1", [BASE, SECOND], {"Cmd": ["/b"]})
    reference = served.push(layout, "v1", "docker:v1", "--format", "v2s2")
    image = converge(paths, wish(reference))
    assert content(image) == {"a/2": "two", "b": "b"} and image.config == {"command": ["/b"]}


def test_removal_and_prune(paths: Paths, layout: Layout, served: Registry) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "gone:v1")
    converge(paths, wish(reference))
    apply_all(images.operations(paths, images.normalise_all([{"name": "x", "state": "absent"}])))
    apply_all(images.prune_operations(paths))
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_progress(
    paths: Paths, layout: Layout, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        "sandlot.images.progress.Progress.update", lambda self, *words: told.append(words)
    )
    monkeypatch.setattr(client, "_INTERVAL", 0.001)
    monkeypatch.setattr("sandlot.images.extract._INTERVAL", 0.001)
    layout.image("v1", [layer(entry("f", os.urandom(20 << 20)))], pack=bytes, kind=LAYER)
    converge(paths, wish(served.push(layout, "v1", "large:v1")))
    for phase in ("fetch", "unpack"):
        steps = [(done, total) for name, done, total in told if name == phase and total]
        assert steps and all(0 <= done <= total for done, total in steps)
        assert steps == sorted(steps) and steps[-1][1] > 20 << 20


# -- credentials ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that lets nobody in but one."""
    directory = tmp_path_factory.mktemp("closed")
    auth = password_file(directory / "htpasswd", "someone", SECRET)
    with registry(directory, auth=auth) as found:
        layout = Layout(directory / "layout")
        layout.image("v1", [BASE])
        found.push(layout, "v1", "x:v1", "--dest-creds", f"someone:{SECRET}")
        yield found


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """skopeo with something done before or after it, as a shell script; returns its directory."""

    def make(script: str) -> Path:
        directory = tmp_path / "bin"
        directory.mkdir(exist_ok=True)
        program = directory / "skopeo"
        program.write_text(
            f"#!/bin/sh\nreal={shutil.which('skopeo')}\nhere={directory}\n{script}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(client, "SEARCH", str(directory))
        return directory

    return make


def _told(directory: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in directory.iterdir())


def test_credentials_leave_no_trace(
    paths: Paths, tmp_path: Path, closed: Registry, wrapped: Callable[[str], Path]
) -> None:
    reference = f"{closed.address}/x:v1"
    seen = wrapped(
        'echo "$@" >>$here/arguments\ntr "\\0" "\\n" </proc/$$/environ >>$here/environment\n'
        'exec "$real" "$@"'
    )
    login = {"username": "someone", "password": SECRET}
    image = converge(paths, wish(reference, **login, pull="always"))
    assert content(image) == {"a/1": "one", "a/2": "two"}
    assert "inspect" in _told(seen) and "copy" in _told(seen)
    basic = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    for directory in (Path(paths.root), seen):
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                assert SECRET.encode() not in data and basic.encode() not in data, path
    told = json.dumps([images.facts(paths, image), image.to_json()])
    assert "someone" not in told and SECRET not in told


def test_without_credentials_there_is_a_remedy(paths: Paths, closed: Registry) -> None:
    reference = f"{closed.address}/x:v1"
    with pytest.raises(HostError, match="give username and password, or auth_file"):
        plan(paths, wish(reference))
    with pytest.raises(HostError, match="give username and password") as caught:
        plan(paths, wish(reference, username="someone", password="another-s3cret"))
    assert "another-s3cret" not in str(caught.value)
    assert everything(paths) == []


def test_a_server_that_sends_a_password_back(
    paths: Paths, closed: Registry, wrapped: Callable[[str], Path]
) -> None:
    wrapped(f'echo \'level=fatal msg="no: \\"{SECRET}\\" is wrong"\' >&2; exit 1')
    login = {"username": "someone", "password": SECRET}
    with pytest.raises(HostError, match=r'no: "\*{8}" is wrong'):
        plan(paths, wish(f"{closed.address}/x:v1", **login))


def test_a_file_of_credentials(paths: Paths, tmp_path: Path, closed: Registry) -> None:
    reference, path = f"{closed.address}/x:v1", tmp_path / "auth.json"
    with pytest.raises(SpecError, match="auth_file: .* is not there"):
        plan(paths, wish(reference, auth_file=str(path)))
    basic = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    path.write_text(json.dumps({"auths": {closed.address: {"auth": basic}}}))
    assert converge(paths, wish(reference, auth_file=str(path)))
    path.unlink()
    assert plan(paths, wish(reference)) == []


def test_ansible_shows_no_password(paths: Paths, closed: Registry) -> None:
    """At the highest verbosity, in results, diffs and the invocation."""
    image = wish(f"{closed.address}/x:v1", username="someone", password=SECRET)
    both = {
        "sandbox_rootfs": {"images": [image]},
        "sandboxes": {"sandboxes": [], "expected_images": [image]},
    }
    for name, options in both.items():
        out = _ansible(paths, name, options, "--check", "--diff", "-vvvv")
        assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in out and closed.address in out
        assert SECRET not in out


def _ansible(paths: Paths, name: str, options: dict[str, Any], *flags: str) -> str:
    top = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "SANDLOT_ROOT": paths.root,
        "ANSIBLE_CONFIG": f"{top}/ansible.cfg",
        "ANSIBLE_LOCAL_TEMP": f"{paths.root}/tmp",
        "ANSIBLE_REMOTE_TEMP": f"{paths.root}/tmp",
    }
    command = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-c", "local"]
    command += ["-m", name, "-a", json.dumps(options), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# -- TLS ------------------------------------------------------------------------------------------


def test_a_registry_with_a_certificate_of_its_own(
    paths: Paths, tmp_path: Path, layout: Layout
) -> None:
    names = certificate(tmp_path)
    layout.image("v1", [BASE])
    with registry(tmp_path / "registry", tls=names) as served:
        reference = served.push(layout, "v1", "x:v1")
        for unset in ({"tls_verify": None}, {"tls_verify": True}):
            with pytest.raises(HostError, match="x509.*ca_path"):
                plan(paths, wish(reference, **unset))
        with pytest.raises(SpecError, match="ca_path: .* is not there"):
            plan(paths, wish(reference, tls_verify=True, ca_path=str(tmp_path / "none.pem")))
        assert plan(paths, wish(reference))
        ca = names["certificate"]
        assert converge(paths, wish(reference, tls_verify=None, ca_path=ca, pull="always"))


# -- what lies on the host ------------------------------------------------------------------------


def test_an_oci_layout(paths: Paths, layout: Layout) -> None:
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


def test_a_layout_of_several_platforms(paths: Paths, layout: Layout) -> None:
    mine = layout.image("mine", [BASE])
    other = layout.image("other", [SECOND], architecture=OTHER)
    layout.index("v1", {f"linux/{OTHER}": other, f"linux/{ARCHITECTURE}": mine})
    assert converge(paths, wish(f"oci:{layout.path}:v1")).digest == mine[7:]
    image = converge(paths, wish(f"oci:{layout.path}:v1", platform=f"linux/{OTHER}"))
    assert (image.digest, content(image)) == (other[7:], {"b": "b"})


def test_an_oci_archive(paths: Paths, layout: Layout, tmp_path: Path) -> None:
    digest = layout.image("v1", [BASE])
    archive = tmp_path / "x.tar"
    skopeo("copy", f"oci:{layout.path}:v1", f"oci-archive:{archive}:v1")
    for reference in (f"oci-archive:{archive}", f"oci-archive:{archive}:v1"):
        image = converge(paths, wish(reference))
        assert (image.digest, content(image)) == (digest[7:], {"a/1": "one", "a/2": "two"})


def test_a_docker_archive(paths: Paths, layout: Layout, tmp_path: Path) -> None:
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


def test_what_is_not_there(paths: Paths, tmp_path: Path) -> None:
    for reference in (f"oci:{tmp_path}/none:v1", f"docker-archive:{tmp_path}/none.tar"):
        assert plan(paths, wish(reference)) == ["image x: make from oci"]
        with pytest.raises(SpecError, match="reference: .* is not there"):
            converge(paths, wish(reference))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "truncated"),
        (b"x" * 2000, "corrupt"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (compressed(BASE), "compressed with gzip.*decompress it"),
        (BASE, "no file manifest.json"),
        (layer(entry("manifest.json", b"{")), "not JSON"),
        (layer(entry("manifest.json", b"[{}]")), "names no config"),
        (layer(entry("manifest.json", b"[5]")), "names no config"),
        (layer(entry("manifest.json", b'[{"Config": "../../etc/shadow"}]')), "no file ../../etc"),
        (layer(entry("manifest.json", b'[{"RepoTags": 5}, {"RepoTags": [5]}]')), "none of its 2"),
        (layer(entry("manifest.json", b"x" * (5 << 20))), "more than"),
    ],
)
def test_archives_that_are_none(paths: Paths, tmp_path: Path, data: bytes, message: str) -> None:
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
    "entry point of text": (
        lambda at: _named(at, {"Entrypoint": "/bin/sh"}),
        "Entrypoint in its config: '/bin/sh' is a string, not a list",
    ),
    "environment without =": (
        lambda at: _named(at, {"Env": ["PATH"]}),
        r"Env in its config\[0\]: 'PATH' is not NAME=VALUE",
    ),
    "user of the host": (lambda at: _named(at, {"User": "../root"}), "User in its config"),
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
    "no files": (lambda at: _tagged(at, at.image("v1", [layer()])), "no files"),
    "a layer that leaves": (
        lambda at: _tagged(at, at.image("v1", [layer(entry("../x", b"x"))])),
        "layer 1: member '../x' .*leaves the image",
    ),
    "a damaged layer": (
        lambda at: _tagged(at, at.image("v1", [BASE], pack=lambda data: compressed(data)[:-20])),
        "layer 1 is truncated or corrupt",
    ),
}


def _named(layout: Layout, settings: dict[str, Any], **changes: Any) -> str:
    layout.image("v1", [BASE], settings, **changes)
    return f"oci:{layout.path}:v1"


def _tagged(layout: Layout, name: str) -> str:
    return f"oci:{layout.path}:v1"


@pytest.mark.parametrize("make, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_images_are_one_error(
    paths: Paths, layout: Layout, make: Callable[[Layout], str], message: str
) -> None:
    with pytest.raises(SandlotError, match=message) as caught:
        converge(paths, wish(make(layout)))
    assert caught.value.hint
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_bounds(paths: Paths, layout: Layout, served: Registry) -> None:
    layout.image("v1", [layer(entry("f", os.urandom(200_000)))])
    reference = served.push(layout, "v1", "bounds:v1")
    with pytest.raises(ArchiveError, match="layer 1: it unpacks to more than.*raise max_size"):
        converge(paths, wish(reference, max_size=100_000))
    layout.image("large", [layer(entry("f", os.urandom(17 << 20)))], pack=bytes, kind=LAYER)
    large = served.push(layout, "large", "bounds:large")
    with pytest.raises(ImageError, match="bytes of layers, more than max_size.*raise max_size"):
        converge(paths, wish(large, max_size=100_000))
    with pytest.raises(ArchiveError, match="more than 5 members.*raise max_files"):
        many = layer(*(entry(str(number)) for number in range(6)))
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
    paths: Paths,
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


def test_a_server_that_stops_sending(
    paths: Paths,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "stalled:v1")
    seen = wrapped(
        'case "$*" in *copy*) echo $$ >$here/pid; exec sleep 1000;; esac; exec $real "$@"'
    )
    monkeypatch.setattr(client, "_STALLED_SECONDS", 0.5)
    with pytest.raises(HostError, match="has sent nothing for"):
        converge(paths, wish(reference))
    wait_dead(int((seen / "pid").read_text()))
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_a_server_that_sends_too_much(
    paths: Paths,
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
    paths: Paths, layout: Layout, served: Registry, wrapped: Callable[[str], Path]
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "killed:v1")
    seen = wrapped(
        'case "$*" in *copy*) echo $$ >$here/pid; exec sleep 1000;; esac; exec $real "$@"'
    )
    run = FORK.Process(target=converge, args=(paths, wish(reference)))
    run.start()
    pid = int(until(lambda: (seen / "pid").exists() and (seen / "pid").read_text().strip()))
    assert run.pid
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    wait_dead(pid)
    assert any("/.tmp-" in name for name in everything(paths))
    wrapped('exec $real "$@"')
    assert plan(paths, wish(reference))[0] == "images: clean up after an interrupted run"
    converge(paths, wish(reference))
    assert not any("/.tmp-" in name for name in everything(paths))


def test_two_runs_fetch_once(paths: Paths, layout: Layout, own: Registry) -> None:
    layout.image("v1", [layer(entry("f", os.urandom(1 << 20)))])
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
    paths: Paths, layout: Layout, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "tool:v1")
    assert "skopeo" not in facts.gather(paths, ["oci"])["missing_packages"]
    monkeypatch.setattr(client, "SEARCH", "/nonexistent")
    assert "skopeo" in facts.gather(paths, ["busybox", "oci"])["missing_packages"]
    assert "skopeo" not in facts.gather(paths, ["busybox"])["missing_packages"]
    assert plan(paths, wish(reference)) == ["image x: make from oci"]
    with pytest.raises(HostError, match="no skopeo.*apt install skopeo"):
        converge(paths, wish(reference))
    assert image_store.prune_operations(paths) == []


def test_a_missing_source_is_named(paths: Paths) -> None:
    with pytest.raises(SpecError, match=r"image_sources\[1\]: 'docker' is not a choice"):
        facts.known_sources("image_sources", ["oci", "docker"])
