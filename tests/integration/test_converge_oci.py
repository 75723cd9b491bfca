# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Sandboxes of images from a real registry: what the image says is what runs."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import entry, folder, pack
from converge_fixtures import Deployment, eventually, fetch, free_port, needs_root
from image_fixtures import output, prepare
from oci_images import REGISTRY, Layout, Registry, busybox_layer, registry, skopeo

pytestmark = [
    needs_root,
    pytest.mark.skipif(not REGISTRY, reason="no docker-registry"),
]
RUN = b"""#!/bin/sh
echo "as $(id -u):$(id -g) in $PWD with $GREETING and $*"
[ "$HOME $USER" = "/srv web" ] || echo "at home in $HOME as $USER"
trap 'echo told to end; exit 7' USR1
httpd -f -p 8080 -h . & wait
"""
SETTINGS = {
    "Entrypoint": ["/srv/app/run.sh"],
    "Cmd": ["one", "two words"],
    "Env": ["GREETING=hello", "PATH=/bin"],
    "User": "web",
    "WorkingDir": "/srv/app",
    "StopSignal": "SIGUSR1",
    "Labels": {"from": "image"},
    "ExposedPorts": {"8080/tcp": {}},
    "Healthcheck": {"Test": ["CMD-SHELL", "test -e index.html && echo there"]},
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as found:
        yield found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def application(page: bytes) -> bytes:
    return pack(
        folder("srv/app"), entry("srv/app/run.sh", RUN, mode=0o755),
        entry("srv/app/index.html", page), entry("srv/app/old"),
    )  # fmt: skip


def wish(reference: str, **options: Any) -> dict[str, Any]:
    return {"name": "app", "source": "oci", "reference": reference, "tls_verify": False, **options}


def logged(host: Deployment, name: str) -> str:
    command = [host.paths.command, "logs", name]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def test_an_image_runs_as_it_says(host: Deployment, layout: Layout, served: Registry) -> None:
    layout.image("v1", [busybox_layer(), application(b"page one\n")], SETTINGS)
    prepare(host, wish(served.push(layout, "v1", "app:v1")))
    port = free_port()
    plain = {"name": "web", "image": "app", "published_ports": [f"{port}:8080"]}
    host.converged(plain)
    eventually(lambda: "page one" in _page(port))
    assert logged(host, "web") == "as 33:44 in /srv/app with hello and one two words\n"
    assert host.info("web")["labels"] == {"from": "image"}
    eventually(lambda: host.info("web")["health"] == "healthy")
    assert host.info("web")["health_output"] == "there"
    assert output(host, "web", "pwd") == "/srv/app\n"
    host.converged({**plain, "state": "stopped"})
    assert logged(host, "web").endswith("told to end\n")
    assert host.info("web")["exit_code"] == 7


def _page(port: int) -> str:
    try:
        return fetch("127.0.0.1", port)
    except OSError:
        return ""


def test_options_win_over_the_image(host: Deployment, layout: Layout, served: Registry) -> None:
    """Whatever it says: bad values of it are no obstacle."""
    bad = {"User": "no one", "StopSignal": "SIGNONE", "Healthcheck": {"Test": "x"}}
    environment = ["GREETING=hello", "PATH=/bin", "NONE"]
    settings = {**SETTINGS, **bad, "Env": environment, "ExposedPorts": ["80"]}
    layout.image("v1", [busybox_layer(), application(b"")], settings)
    prepare(host, wish(served.push(layout, "v1", "app:v1")))
    script = 'echo "$(id -u) $PWD $GREETING $*"; trap "exit 3" TERM; sleep 1000000 & wait'
    mine = {
        "name": "web", "image": "app", "entrypoint": ["sh", "-c", script, "x"], "user": "0",
        "working_dir": "/bin", "env": {"GREETING": "bye"}, "stop_signal": "TERM",
        "labels": {"from": "me"}, "healthcheck": {"test": ["NONE"]},
    }  # fmt: skip
    host.converged(mine)
    eventually(lambda: "/bin" in logged(host, "web"))
    assert logged(host, "web") == "0 /bin bye \n"
    assert host.info("web")["health"] is None
    host.converged({**mine, "command": ["args"]})
    eventually(lambda: "args" in logged(host, "web"))
    own = {name: mine[name] for name in ("name", "image", "user", "stop_signal", "healthcheck")}
    host.converged({**own, "command": ["three"], "state": "started"})
    eventually(lambda: "with hello and three" in logged(host, "web"))


def test_a_working_directory_that_is_not_there(
    host: Deployment, layout: Layout, served: Registry
) -> None:
    settings = {"Cmd": ["sleep", "1000000"], "WorkingDir": "/not/there/yet"}
    layout.image("v1", [busybox_layer()], settings)
    prepare(host, wish(served.push(layout, "v1", "app:v1")))
    host.converged({"name": "a", "image": "app"})
    assert output(host, "a", "pwd") == "/not/there/yet\n"


def test_an_image_without_a_command(host: Deployment, layout: Layout, served: Registry) -> None:
    layout.image("v1", [busybox_layer()])
    prepare(host, wish(served.push(layout, "v1", "app:v1")))
    with pytest.raises(Exception, match="nothing to run; give it a command"):
        host.run({"name": "a", "image": "app"})


def test_a_tag_that_moves_reaches_who_follows_it(
    host: Deployment, layout: Layout, served: Registry
) -> None:
    """A fresh layer, or the old one by on_image_change; a pinned sandbox stays."""
    old = layout.image("v1", [busybox_layer(), application(b"page one\n")], SETTINGS)
    reference = served.push(layout, "v1", "app:v1")
    prepare(host, wish(reference, pull="always"))
    ports = {name: free_port() for name in ("follows", "keeps", "pinned")}
    specs = [
        {"name": name, "image": "app", "published_ports": [f"{port}:8080"]}
        for name, port in ports.items()
    ]
    specs[1]["on_image_change"], specs[2]["image"] = "keep", f"app@{old}"
    host.converged(*specs)
    for name in ("follows", "keeps"):
        Path(host.paths.sandbox(name).upper, "kept").write_text("kept\n")
    pids = {name: host.pid(name) for name in ports}
    settings = {**SETTINGS, "Env": ["GREETING=again", "PATH=/bin"]}
    second = pack(entry("srv/app/index.html", b"page two\n"), entry("srv/app/.wh.old"))
    new = layout.image("v1", [busybox_layer(), application(b"page one\n"), second], settings)
    served.push(layout, "v1", "app:v1")
    assert host.run(*specs).actions == []
    prepare(host, wish(reference))
    assert host.run(*specs).actions == []
    assert prepare(host, wish(reference, pull="always")) == [
        f"image app: replace {new[7:19]} from oci (restart)"
    ]
    result = host.converged(*specs)
    updated = f"image updated, {old[7:19]} -> {new[7:19]}"
    assert f"follows: {updated}, gets a fresh layer (rebuild)" in result.actions
    assert f"keeps: {updated}, keeps its layer (restart)" in result.actions
    assert not [line for line in result.actions if line.startswith("pinned")]
    changed = {name for name in ports if host.pid(name) != pids[name]}
    assert changed == {"follows", "keeps"}
    eventually(lambda: all("page two" in _page(ports[name]) for name in changed))
    assert "page one" in _page(ports["pinned"])
    assert output(host, "keeps", "cat", "/kept") == "kept\n"
    assert "kept" not in output(host, "follows", "ls", "/")
    assert output(host, "follows", "ls", "/srv/app") == "index.html\nrun.sh\n"
    eventually(lambda: "with again and" in logged(host, "follows"))


def test_a_registry_from_a_registry(
    host: Deployment, layout: Layout, served: Registry, tmp_path: Path
) -> None:
    """A real program with its libraries, by the entry point of its image; then it serves images."""
    settings = {
        "Entrypoint": ["/usr/bin/docker-registry"],
        "Cmd": ["serve", "/etc/registry.yml"],
        "ExposedPorts": {"5000/tcp": {}},
        "Volumes": {"/var/lib/registry": {}},
    }
    configuration = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}},
        "http": {"addr": ":5000"},
    }
    written = pack(entry("etc/registry.yml", json.dumps(configuration).encode()))
    layout.image("v1", [_program(REGISTRY, "/usr/bin/docker-registry"), written], settings)
    prepare(host, wish(served.push(layout, "v1", "registry:2")))
    port = free_port()
    host.converged({"name": "registry", "image": "app", "published_ports": [f"{port}:5000"]})
    base = f"http://127.0.0.1:{port}/v2/"
    eventually(lambda: _answers(base))
    pushed = f"docker://127.0.0.1:{port}/a/b:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1", pushed)
    with urllib.request.urlopen(f"{base}_catalog") as answer:
        assert json.load(answer) == {"repositories": ["a/b"]}
    (volume,) = host.info("registry")["volumes"].values()
    assert Path(host.paths.volume(volume).data, "docker/registry/v2").is_dir()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _program(source: str, path: str) -> bytes:
    """A layer with a program at a path, and the libraries that the dynamic linker names."""
    listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    files = {path: source, **{name: name for name in libraries}}
    return pack(
        *(
            entry(name.lstrip("/"), Path(origin).resolve().read_bytes(), mode=0o755)
            for name, origin in files.items()
        )
    )
