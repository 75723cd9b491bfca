# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""skopeo reads what strangers send, so it is nobody, with nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from oci_fixtures import (
    BASE,
    content,
    converge,
    layout,
    needs_registry,
    paths,
    served,
    wish,
    wrapped,
)
from oci_images import Layout, Registry
from sandlot.errors import HostError
from sandlot.images.oci import credentials
from sandlot.site import Site

__all__ = ["layout", "paths", "served", "wrapped"]
pytestmark = needs_registry
LOOK = """
{
    grep -E "^(Uid|Gid|Groups|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):" /proc/self/status
    for path in SECRET STATE; do ls $path >/dev/null 2>&1 && echo "can read $path"; done
    cat SECRET
    tail -n +3 /proc/net/dev | cut -d: -f1
} >>$here/seen 2>/dev/null
"""


@pytest.fixture
def look(tmp_path: Path, paths: Site) -> str:
    """A script that notes what skopeo could do, about a secret of root and our state."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    return LOOK.replace("SECRET", str(secret)).replace("STATE", paths.state)


def test_it_has_no_rights(
    paths: Site,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    look: str,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "confined:v1")
    here = wrapped(f'{look}\nexec "$real" "$@"')
    assert content(converge(paths, wish(reference))) == {"a/1": "one", "a/2": "two"}
    seen = (here / "seen").read_text()
    assert set(seen.splitlines()) >= {
        f"Uid:\t{credentials.USER}\t{credentials.USER}\t{credentials.USER}\t{credentials.USER}",
        f"Gid:\t{credentials.USER}\t{credentials.USER}\t{credentials.USER}\t{credentials.USER}",
        *(f"Cap{each}:\t{0:016x}" for each in ("Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs:\t1",
    }
    assert "can read" not in seen and "s3cret" not in seen
    # The control: the same script, by root.
    (here / "seen").unlink()
    subprocess.run([here / "skopeo", "--version"], check=True, capture_output=True)
    assert "s3cret" in (here / "seen").read_text() and "can read" in (here / "seen").read_text()


def test_what_lies_on_the_host_is_read_without_a_network(
    paths: Site, layout: Layout, wrapped: Callable[[str], Path], look: str
) -> None:
    layout.image("v1", [BASE])
    here = wrapped(f'{look}\nexec "$real" "$@"')
    assert content(converge(paths, wish(f"oci:{layout.path}:v1"))) == {"a/1": "one", "a/2": "two"}
    lines = (here / "seen").read_text().splitlines()
    assert f"CapBnd:\t{1 << 2:016x}" in lines and f"CapEff:\t{1 << 2:016x}" in lines
    assert {line.strip() for line in lines if line.startswith("  ")} <= {"lo"}


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hardlink", "directory"])
def test_only_plain_files_are_opened(
    paths: Site, layout: Layout, served: Registry, wrapped: Callable[[str], Path], kind: str
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", f"odd-{kind}:v1")
    odd = {
        "symlink": "ln -sf /etc/shadow manifest.json",
        "fifo": "rm manifest.json; mkfifo manifest.json",
        "hardlink": "ln manifest.json again",
        "directory": "mkdir more",
    }[kind]
    wrapped(
        '"$real" "$@" || exit\nfor last; do :; done\n'
        f'case "$*" in *copy*) cd "${{last#dir:}}" && {odd};; esac'
    )
    with pytest.raises(HostError, match="which is no plain file"):
        converge(paths, wish(reference))


def test_credentials_of_root_are_those_of_the_registry_alone(
    paths: Site,
    tmp_path: Path,
    layout: Layout,
    served: Registry,
    wrapped: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout.image("v1", [BASE])
    reference = served.push(layout, "v1", "mine:v1")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    other = {"other.example.com": {"auth": "b3RoZXI="}}
    first.write_text(json.dumps({"auths": {served.address: {"auth": "Zmlyc3Q6eA=="}, **other}}))
    last = {f"https://{served.address}/v1/": {"auth": "bGVnYWN5Ong="}}
    second.write_text(
        json.dumps({"auths": {served.address: {"auth": "c2Vjb25kOng="}, **last, **other}})
    )
    for file in (first, second):
        file.chmod(0o600)
    monkeypatch.setattr(credentials, "_PLACES", (str(first), str(second)))
    here = wrapped(
        "for word; do case $word in /proc/self/fd/*) cat $word >$here/auth;; esac; done\n"
        'exec "$real" "$@"'
    )
    assert converge(paths, wish(reference))
    seen = json.loads((here / "auth").read_text())["auths"]
    assert {name: value["auth"] for name, value in seen.items()} == {
        served.address: "Zmlyc3Q6eA==",
        f"https://{served.address}/v1/": "bGVnYWN5Ong=",
    }
    first.write_text("[]")
    with pytest.raises(HostError, match="is no file of credentials"):
        converge(paths, wish(reference, pull="always"))
    os.unlink(first)
