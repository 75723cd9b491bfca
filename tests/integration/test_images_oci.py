# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Images from a real registry: digests, platforms, credentials, certificates."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    LAYER,
    Layout,
    Registry,
    certificate,
    password_file,
    registry,
)
from sandlot import images
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.images.oci import skopeo as client
from sandlot.images.oci.manifest import ImageError
from sandlot.plan import Change, apply_all, descriptions
from sandlot.site import Site

__all__ = ["layout", "own", "paths", "served", "wrapped"]
pytestmark = needs_registry
SECRET = "s3cret-of-the-test"


# -- registries -----------------------------------------------------------------------------------


def test_an_image_from_a_registry(paths: Site, layout: Layout, served: Registry) -> None:
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


def test_what_is_there_is_not_asked_for_again(paths: Site, layout: Layout, own: Registry) -> None:
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


def test_a_tag_that_moves(paths: Site, layout: Layout, served: Registry) -> None:
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


def test_never_means_never(paths: Site, layout: Layout, served: Registry) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "never:v1")
    with pytest.raises(SpecError, match="pull: 'never' but image 'x'.*not on this host"):
        plan(paths, wish(reference, pull="never"))


def test_a_lost_tree_is_fetched_by_its_digest(
    paths: Site, layout: Layout, served: Registry
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "lost:v1")
    image = converge(paths, wish(reference))
    shutil.rmtree(os.path.dirname(image.root))
    layout.image("v1", [SECOND])
    served.push(layout, "v1", "lost:v1")
    assert plan(paths, wish(reference)) == [f"image x: make again {image.digest[:12]} from oci"]
    assert content(converge(paths, wish(reference))) == {"a/1": "one", "a/2": "two"}


def test_the_host_chooses_its_platform(paths: Site, layout: Layout, served: Registry) -> None:
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
    paths: Site, layout: Layout, served: Registry
) -> None:
    layout.image("v1", [BASE], architecture=OTHER)
    reference = served.push(layout, "v1", "foreign:v1")
    with pytest.raises(
        ImageError, match=f"is for linux/{OTHER}, not .*set platform: linux/{OTHER}"
    ):
        converge(paths, wish(reference))
    assert [name for name in everything(paths) if not name.endswith("trees")] == []
    assert converge(paths, wish(reference, platform=f"linux/{OTHER}"))


def test_names_that_lead_nowhere(paths: Site, layout: Layout, served: Registry) -> None:
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


def test_docker_manifests(paths: Site, layout: Layout, served: Registry) -> None:
    """What docker pushes: other media types, the same layers."""
    layout.image("v1", [BASE, SECOND], {"Cmd": ["/b"]})
    reference = served.push(layout, "v1", "docker:v1", "--format", "v2s2")
    image = converge(paths, wish(reference))
    assert content(image) == {"a/2": "two", "b": "b"} and image.config == {"command": ["/b"]}


def test_removal_and_prune(paths: Site, layout: Layout, served: Registry) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "gone:v1")
    converge(paths, wish(reference))
    apply_all(images.operations(paths, images.normalise_all([{"name": "x", "state": "absent"}])))
    apply_all(images.prune_operations(paths))
    assert [Path(name).name for name in everything(paths)] == ["trees"]


def test_progress(
    paths: Site, layout: Layout, served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        "sandlot.images.progress.Progress.update", lambda self, *words: reports.append(words)
    )
    monkeypatch.setattr(client, "_INTERVAL", 0.001)
    monkeypatch.setattr("sandlot.kernel.fork._INTERVAL", 0.001)
    layout.image("v1", [pack(entry("f", os.urandom(20 << 20)))], compress=bytes, kind=LAYER)
    converge(paths, wish(served.push(layout, "v1", "large:v1")))
    for phase in ("fetch", "unpack"):
        steps = [(done, total) for name, done, total in reports if name == phase and total]
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


def _told(directory: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in directory.iterdir())


def test_credentials_leave_no_trace(
    paths: Site, tmp_path: Path, closed: Registry, wrapped: Callable[[str], Path]
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
    reports = json.dumps([images.facts(paths, image), image.to_json()])
    assert "someone" not in reports and SECRET not in reports


def test_without_credentials_there_is_a_remedy(paths: Site, closed: Registry) -> None:
    reference = f"{closed.address}/x:v1"
    with pytest.raises(HostError, match="give username and password, or auth_file"):
        plan(paths, wish(reference))
    with pytest.raises(HostError, match="give username and password") as caught:
        plan(paths, wish(reference, username="someone", password="another-s3cret"))
    assert "another-s3cret" not in str(caught.value)
    assert everything(paths) == []


def test_a_server_that_sends_a_password_back(
    paths: Site, closed: Registry, wrapped: Callable[[str], Path]
) -> None:
    wrapped(f'echo \'level=fatal msg="no: \\"{SECRET}\\" is wrong"\' >&2; exit 1')
    login = {"username": "someone", "password": SECRET}
    with pytest.raises(HostError, match=r'no: "\*{8}" is wrong'):
        plan(paths, wish(f"{closed.address}/x:v1", **login))


def test_a_file_of_credentials(paths: Site, tmp_path: Path, closed: Registry) -> None:
    reference, path = f"{closed.address}/x:v1", tmp_path / "auth.json"
    with pytest.raises(SpecError, match="auth_file: .* is not there"):
        plan(paths, wish(reference, auth_file=str(path)))
    basic = base64.b64encode(f"someone:{SECRET}".encode()).decode()
    path.write_text(json.dumps({"auths": {closed.address: {"auth": basic}}}))
    assert converge(paths, wish(reference, auth_file=str(path)))
    path.unlink()
    assert plan(paths, wish(reference)) == []


def test_ansible_shows_no_password(paths: Site, closed: Registry) -> None:
    """At the highest verbosity, in results, diffs and the invocation."""
    image = wish(f"{closed.address}/x:v1", username="someone", password=SECRET)
    both = {
        "sandbox_rootfs": {"images": [image]},
        "sandboxes": {"sandboxes": [], "images": [image]},
    }
    for name, options in both.items():
        out = _ansible(paths, name, options, "--check", "--diff", "-vvvv")
        assert "password: hidden" in out and closed.address in out
        assert SECRET not in out


def _ansible(paths: Site, name: str, options: dict[str, Any], *flags: str) -> str:
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
    paths: Site, tmp_path: Path, layout: Layout
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
