# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""security_profile as deployed: by the image's source, by the option, and after an upgrade."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root
from image_fixtures import output, prepare
from oci_images import Layout, busybox_layer
from sandlot import profiles
from sandlot.spec.confinement import mask

pytestmark = needs_root
DAEMON = profiles.CAPABILITIES[profiles.DAEMON]
# As entrypoints of published images: root makes directories for a user and becomes it.
ENTRYPOINT = """
busybox mkdir -p /var/lib/app || exit 1
busybox chown web:web /var/lib/app && busybox chmod 700 /var/lib/app || exit 2
busybox su web -c 'touch /var/lib/app/mine' || exit 3
busybox chroot / true || exit 4
echo done; exec sleep 1000000
"""
SETTINGS = {"Entrypoint": ["sh", "-c", ENTRYPOINT]}


@pytest.fixture
def reference(tmp_path: Path) -> str:
    layout = Layout(tmp_path / "layout")
    layout.image("v1", [busybox_layer()], SETTINGS)
    return f"oci:{layout.path}:v1"


def held(host: Deployment, name: str, *user: str) -> dict[str, int]:
    """Capability sets of a command of exec."""
    text = output(host, name, *user, "cat", "/proc/self/status")
    fields = (line.split(":\t") for line in text.splitlines() if line.startswith("Cap"))
    return {key: int(value, 16) for key, value in fields}


def listed(host: Deployment, name: str) -> dict[str, Any]:
    command = [host.paths.command, "list", "--format", "json"]
    environment = {**os.environ, "SANDLOT_ROOT": host.paths.root}
    found = json.loads(subprocess.check_output(command, env=environment, text=True))
    return next(entry for entry in found if entry["name"] == name)


def test_the_source_of_the_image_decides(host: Deployment, reference: str) -> None:
    prepare(host, {"name": "app", "source": "oci", "reference": reference})
    web = {"name": "web", "image": "app"}
    result = host.converged(web)
    assert result.relaxed == {"web": ["security_profile: daemon"]}
    eventually(lambda: host.info("web")["last_log"] == ["done"])
    assert output(host, "web", "busybox", "stat", "-c", "%u", "/var/lib/app/mine") == "33\n"
    sets = held(host, "web")
    assert {sets[key] for key in ("CapPrm", "CapEff", "CapBnd")} == {mask(DAEMON)}
    assert (sets["CapInh"], sets["CapAmb"]) == (0, 0)
    for facts in (host.info("web"), listed(host, "web"), result.sandboxes["web"]):
        assert facts["security_profile"] == "daemon"
        assert facts["capabilities"] == list(DAEMON)

    # The same by the option costs nothing; another one does.
    pid = host.pid("web")
    assert host.converged({**web, "security_profile": "daemon"}).actions == [
        "web: security_profile unset -> daemon"
    ]
    assert host.pid("web") == pid
    strict = {**web, "security_profile": "strict", "capabilities": ["CHOWN", "NET_RAW"]}
    result = host.run(strict)
    assert "web: security_profile daemon -> strict (restart)" in result.actions
    assert held(host, "web")["CapEff"] == mask(["CHOWN", "NET_RAW"])
    assert host.info("web")["capabilities"] == ["CHOWN", "NET_RAW"]

    # Without the option, the default is back.
    result = host.converged({**web, "capabilities": ["NET_RAW"]})
    assert "web: security_profile strict -> daemon (restart)" in result.actions
    assert result.diff["after"]["web"]["security_profile (restart)"] == "daemon"
    assert held(host, "web")["CapEff"] == mask([*DAEMON, "NET_RAW"])
    assert result.relaxed == {"web": ["security_profile: daemon", "capabilities: NET_RAW"]}

    # Another source, another default.
    prepare(host, {"name": "app", "source": "busybox"})
    result = host.converged({**web, "entrypoint": ["sleep", "1000000"]})
    assert "web: security_profile daemon -> strict (restart)" in result.actions
    assert held(host, "web")["CapBnd"] == 0
    assert result.relaxed == {}
