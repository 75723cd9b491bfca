# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""security_profile as deployed: by the image's source, by the option, and after an upgrade."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from converge_fixtures import Deployment, eventually, needs_root
from image_fixtures import output, prepare
from oci_images import Layout, busybox_layer
from sandlot import converge, images, profiles
from sandlot.sandbox import launchfile, record
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


def test_sandboxes_of_an_earlier_version(host: Deployment, reference: str) -> None:
    """Neither an upgrade nor a boot changes them; the next run that lists them says so first."""
    prepare(host, {"name": "app", "source": "oci", "reference": reference})
    web = {"name": "web", "image": "app", "entrypoint": ["sleep", "1000000"]}
    host.converged({**web, "security_profile": "strict"})
    as_before(host, "web")
    pid = host.pid("web")
    assert host.run({**web, "name": "other"}).actions[0].startswith("other: create")
    assert converge.up(host.paths).actions == []
    assert host.pid("web") == pid and host.info("web")["relaxed"] == []
    host.reboot()
    assert not converge.up(host.paths).failed
    assert converge.lifecycle(host.paths, ["web"], "restart").actions == [
        "web: restart: asked (restart)"
    ]
    assert held(host, "web")["CapBnd"] == 0
    facts = listed(host, "web")
    assert (facts["security_profile"], facts["capabilities"]) == ("strict", [])

    expected = [
        "web: security_profile strict -> daemon (restart)",
        "web: restart: security_profile changed (restart)",
    ]
    checked = host.run(web, check=True)
    assert checked.actions == expected
    assert checked.diff == {
        "before": {"web": {"security_profile (restart)": "strict"}},
        "after": {"web": {"security_profile (restart)": "daemon"}},
    }
    assert held(host, "web")["CapBnd"] == 0
    assert host.converged(web).actions == expected
    assert held(host, "web")["CapBnd"] == mask(DAEMON)


def as_before(host: Deployment, name: str) -> None:
    """The record and the launch file as a version without profiles writes them."""
    known = record.load(host.paths, name)
    assert known is not None and known.image.config.pop(profiles.OPTION) == "daemon"
    record.save(host.paths, replace(known, spec=replace(known.spec, security_profile=None)))
    launch = launchfile.decoded(launchfile.current(host.paths, name))
    assert launch.pop("log_files")
    launchfile.write(host.paths.sandbox(name), launchfile.encoded(launch))


def test_a_pinned_sandbox_and_a_layer_in_memory_follow_too(
    host: Deployment, reference: str
) -> None:
    oci = {"name": "app", "source": "oci", "reference": reference}
    prepare(host, oci, {"name": "brief", "source": "tmpfs", "base": "app"})
    digest = images.lookup(host.paths, "app").digest
    idle = ["sleep", "1000000"]
    specs = [
        {"name": "pinned", "image": f"app@sha256:{digest}", "entrypoint": idle},
        {"name": "brief", "image": "brief", "entrypoint": idle},
    ]
    strict = [{**each, "security_profile": "strict"} for each in specs]
    host.converged(*strict)
    for name in ("pinned", "brief"):
        as_before(host, name)
    prepare(
        host,
        {**oci, "setup": ["busybox chroot / touch /new"]},
        {"name": "brief", "source": "tmpfs", "base": "app"},
    )
    host.converged(*specs)
    for name in ("pinned", "brief"):
        assert host.info(name)["security_profile"] == "daemon", name
    assert output(host, "brief", "ls", "/new") == "/new\n"
    assert output(host, "pinned", "sh", "-c", "test -e /new || echo none") == "none\n"
