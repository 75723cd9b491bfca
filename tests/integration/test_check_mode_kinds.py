# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""A check of each other module foretells its run and touches nothing, for each of its options."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from archives import entry, pack
from check_fixtures import Json, Look, call, foreseen, options
from converge_fixtures import (
    Deployment,
    deployed,
    needs_root,
    sandbox,
    short_directory,
    untouched_host,
)
from oci_images import ARCHITECTURE, Layout, busybox_layer
from sandlot import images
from sandlot.errors import SandlotError
from sandlot.images import setup
from sandlot.images.normalise import COMMON
from sandlot.images.sources import SOURCES
from sandlot.spec.table import networks, volumes

pytestmark = needs_root

# Other values of each option of a network, which has the subnet 10.77.N.0/24.
NETWORK = {
    "ipv4_subnet": ("10.77.10.0/24", "10.77.11.0/24"),
    "ipv4_gateway": ("10.77.N.254", "10.77.N.253"),
    "ipv6_subnet": ("fd77::/64", "fd78::/64"),
    "ipv6_gateway": ("fd77:N::ff", "fd77:N::fe"),
    "nat": (False,),
    "isolated": (True,),
    "mtu": (1400, 1401),
    "dns_servers": (["192.0.2.53"], ["192.0.2.54"]),
    "internal": (True,),
    "egress": (["203.0.113.0/24"], ["dns"]),
    "host_access": (["9100/tcp"], ["9101/tcp"]),
}


def network(host: Deployment, option: str, which: int | None) -> Json:
    number = str(20 + [*NETWORK].index(option))
    made: Json = {"name": option.replace("_", "-"), "ipv4_subnet": "10.77.N.0/24"}
    if option == "ipv6_gateway":
        made["ipv6_subnet"] = "fd77:N::/64"
    if which is not None:
        made[option] = NETWORK[option][: which + 1][-1]
    text = json.dumps(made).replace("10.77.", f"{host.prefix}.")
    local: Json = json.loads(text.replace(".N.", f".{number}.").replace(":N:", f":{number}:"))
    return local


def test_networks(host: Deployment) -> None:
    """A sandbox is on each but the one that moves to another subnet."""
    assert {*NETWORK, "name"} == {row.name for row in networks.OPTIONS}
    assert {*options("sandbox_network")} == {"networks", "state", "purge"}
    attached = [network(host, option, None) for option in NETWORK if option != "ipv4_subnet"]
    for which in (None, 0, 1, None):
        wanted = [network(host, option, which) for option in NETWORK]
        done = foreseen(host, "sandbox_network", {"networks": wanted})
        before, after = (json.loads(done["diff"][side]) for side in ("before", "after"))
        if before.keys() == after.keys():
            same = {name.replace("-", "_") for name in after if before[name] == after[name]}
            two = {name for name, values in NETWORK.items() if len(values) == 1}
            assert same == {"default", *(two if which == 1 else ())}
        else:
            host.run(sandbox("a", networks=[{"name": each["name"]} for each in attached]))
    host.run(purge=True)
    gone = [{"name": "nat"}]
    foreseen(host, "sandbox_network", {"networks": gone, "state": "absent"})
    foreseen(host, "sandbox_network", {"networks": [], "purge": True})


VOLUME = {"size": ("64m", "65m"), "labels": ({"a": "b"}, {"a": "c"})}


def test_volumes(host: Deployment) -> None:
    assert {*VOLUME, "name", "state", "force"} == {row.name for row in volumes.OPTIONS}
    for option, values in VOLUME.items():
        for value in (None, *values, None):
            done = foreseen(host, "sandbox_volume", {"name": "data", option: value})
            assert done["changed"] and done["diff"]["before"] != done["diff"]["after"]
        data = Path(host.paths.volume("data").data)
        gone = {"name": "data", "state": "absent"}
        if option == "labels":
            (data / "row").write_text("1")
            before = Look(host)
            for check in (True, False):
                with pytest.raises(SandlotError, match="holds data"):
                    call(host, "sandbox_volume", gone, check=check)
                assert before.touched() == []
            gone["force"] = True
        foreseen(host, "sandbox_volume", gone)


def test_subids(host: Deployment) -> None:
    assert {*options("sandbox_subid")} == {"names", "state"}
    for names, state in ((["a"], "present"), (["a", "b"], "present"), (["a", "b"], "absent")):
        foreseen(host, "sandbox_subid", {"names": names, "state": state})


# -- images ---------------------------------------------------------------------------------------

UNTRIED = {
    **{f"debootstrap.{row.name}": "a mirror" for row in SOURCES["debootstrap"].options},
    **{f"tarball.{name}": "a server, or a controller" for name in ("url", "src", "pull")},
    **{f"oci.{name}": "a registry" for name in ("pull", "tls_verify", "ca_path", "auth_file")},
    **{f"oci.{name}": "a registry" for name in ("username", "password")},
}
# The image is the same with and without them.
SAME = {
    *("tarball.path", "tarball.max_size", "tarball.max_files", "oci.max_size", "oci.max_files"),
    *("oci.platform", "setup_network", "setup_timeout"),
}


def variants(host: Deployment, top: Path) -> dict[str, tuple[Json, Json, Json]]:
    """For each option of a source, an image without it and two with it."""
    layout, tars, trees, tags = Layout(top / "layout"), [], [], []
    for name in ("one", "two", "three"):
        shutil.copytree(images.lookup(host.paths, "busybox").root, top / name, symlinks=True)
        (top / name / "etc/issue").write_text(name)
        archive = pack(entry(name, name.encode()))
        for path in (top / f"{name}.tar", top / f"copy-of-{name}.tar"):
            path.write_bytes(archive)
        checksum = f"sha256:{hashlib.sha256(archive).hexdigest()}"
        layout.image(name, [busybox_layer()], {"Labels": {"which": name}})
        tars.append({"source": "tarball", "path": f"{top}/{name}.tar", "checksum": checksum})
        trees.append({"source": "directory", "path": f"{top}/{name}"})
        tags.append({"source": "oci", "reference": f"oci:{top}/layout:{name}"})
    tar, oci, copies = tars[0], tags[0], (f"{top}/copy-of-one.tar", f"{top}/one.tar")
    made = {"source": "busybox", "setup": ["true > /a"]}

    def of(base: Json, option: str, first: Any, second: Any) -> tuple[Json, Json, Json]:
        return base, {**base, option: first}, {**base, option: second}

    host_programs = {"source": "host", "programs": ["bash"]}
    overlay, memory = {"source": "host_overlay"}, {"source": "tmpfs"}
    return {
        "tarball.checksum": (tars[0], tars[1], tars[2]),
        "tarball.path": of(tar, "path", *copies),
        "tarball.max_size": of(tar, "max_size", "1g", "2g"),
        "tarball.max_files": of(tar, "max_files", 100, 200),
        "oci.reference": (tags[0], tags[1], tags[2]),
        "oci.platform": of(oci, "platform", f"linux/{ARCHITECTURE}", f"linux/{ARCHITECTURE}"),
        "oci.max_size": of(oci, "max_size", "1g", "2g"),
        "oci.max_files": of(oci, "max_files", 100, 200),
        "directory.path": (trees[0], trees[1], trees[2]),
        "tmpfs.size": of(memory, "size", "1m", "2m"),
        "tmpfs.mode": of(memory, "mode", "0750", "0700"),
        "tmpfs.base": of(memory, "base", "directory.path", "oci.reference"),
        "host.programs": of(host_programs, "programs", ["cat"], ["cat", "sleep"]),
        "host.packages": of(host_programs, "packages", ["hostname"], ["sed"]),
        "host.files": of(host_programs, "files", ["/etc/services"], ["/etc/protocols"]),
        "host_overlay.show": of(overlay, "show", ["/opt"], ["/srv"]),
        "host_overlay.hide": of(overlay, "hide", ["/usr/share/doc"], ["/usr/share/man"]),
        "setup": of({"source": "busybox"}, "setup", made["setup"], ["true > /b"]),
        "setup_network": of(made, "setup_network", "none", "none"),
        "setup_timeout": of(made, "setup_timeout", 60, 61),
    }


def test_each_option_of_an_image_is_tried_or_listed(host: Deployment, tmp_path: Path) -> None:
    known = {f"{kind}.{row.name}" for kind, source in SOURCES.items() for row in source.options}
    known |= {row.name for row in setup.OPTIONS}
    assert {*variants(host, tmp_path)} | {*UNTRIED} == known
    assert {row.name for row in COMMON} == {"name", "state", "source"}


def test_images(host: Deployment, tmp_path: Path) -> None:
    of_options = variants(host, tmp_path)
    assert {*options("sandbox_rootfs")} == {"images", "purge", "prune", "uploads"}
    for turn, which in enumerate((0, 1, 1, 2, 0)):
        wanted = [{"name": name, **of_options[name][which]} for name in of_options]
        done = foreseen(host, "sandbox_rootfs", {"images": wanted})
        before, after = (done["diff"][side] for side in ("before", "after"))
        differing = {name for name in of_options if before.get(name) != after[name]}
        replaced = [line.split()[1][:-1] for line in done["actions"] if " replace " in line]
        assert {*replaced} == ({*of_options} - SAME if turn in (1, 3, 4) else set())
        assert {*replaced} <= differing and bool(differing) == done["changed"]
    gone = [{"name": "setup", "state": "absent"}]
    assert foreseen(host, "sandbox_rootfs", {"images": gone})["changed"]
    assert foreseen(host, "sandbox_rootfs", {"images": [], "purge": True})["changed"]
    foreseen(host, "sandbox_rootfs", {"images": [], "prune": True})


# -- others ---------------------------------------------------------------------------------------


def test_snapshots(host: Deployment, tmp_path: Path) -> None:
    """Each state, and each option in one state that has it."""
    known = {"sandbox", "name", "state", "volumes", "force", "into", "options", "path"}
    assert {*options("sandbox_snapshot")} == known
    host.run(sandbox("a", volumes=["data:/data"]))
    Path(host.paths.sandbox("a").upper, "mark").write_text("1")

    def asked(state: str, name: str | None = "one", **given: Any) -> bool:
        every = {"sandbox": "a", "name": name, "state": state, **given}
        changed: bool = foreseen(host, "sandbox_snapshot", every, again=state == "restore")[
            "changed"
        ]
        return changed

    apart, path = {"volumes": []}, str(tmp_path / "one.tar")
    assert asked("create") and asked("create", "two", volumes=False)
    assert asked("restore", "two", volumes=False) and asked("restore", force=True)
    assert asked("clone", into="b", options={**apart, "labels": {"a": "b"}}, volumes=False)
    assert asked("clone", None, into="c", options=apart, volumes=False)
    assert asked("export", path=path) and asked("absent") and asked("import", path=path)
    assert not asked("absent", "three")
    host.run(purge=True, purge_snapshots=True)


def test_the_runtime() -> None:
    assert {*options("sandbox_host")} == {"state", "image_sources", "packages"}
    with short_directory() as root, untouched_host(root):
        host = Deployment(root)
        for given in ({"packages": "install"}, {"state": "absent"}):
            assert foreseen(host, "sandbox_host", {"image_sources": ["busybox"], **given})[
                "changed"
            ]


@pytest.mark.parametrize("module", ["sandbox_exec", "sandbox_run"])
def test_a_check_runs_no_command(host: Deployment, module: str) -> None:
    """The control is the run."""
    host.run(sandbox("a", volumes=["data:/data"]))
    mark = Path(host.paths.volume("data").data, "mark")
    given: Json = {"argv": ["touch", "/data/mark"]}
    given |= {"name": "a"} if module == "sandbox_exec" else {"image": "busybox"}
    given |= {} if module == "sandbox_exec" else {"volumes": ["data:/data"]}
    before = Look(host)
    checked = call(host, module, given, check=True)
    assert (checked["changed"], checked["skipped"], before.touched()) == (False, True, [])
    assert call(host, module, given)["changed"] and mark.exists()


def test_all_kinds_at_once() -> None:
    """On a new host: sandboxes need what the same run makes."""
    kinds = {"images", "networks", "volumes", "sandboxes", "defaults"}
    purges = {"purge", "purge_volumes", "purge_snapshots"}
    plain = {"recreate", "restart", "only", "address", "management_ports"}
    by_plugins = {"uploads", "host"}
    assert {*options("sandboxes")} == kinds | purges | plain | by_plugins
    with deployed() as host:
        back = {"name": "back", "ipv4_subnet": f"{host.prefix}.4.0/24"}
        web = {**sandbox("web", image="made"), "networks": [{"name": "back"}]}
        given: Json = {
            "images": [{"name": "made", "source": "busybox", "setup": ["true > /a"]}],
            "networks": [back, {"name": "default", "ipv4_subnet": f"{host.prefix}.0.0/22"}],
            "volumes": [{"name": "data", "labels": {"a": "b"}}],
            "sandboxes": [
                {**web, "volumes": ["data:/data", "more:/more"]},
                {**web, "name": "other"},
            ],
            "defaults": {"labels": {"a": "b"}},
        }
        assert foreseen(host, "sandboxes", {**given, "purge": True})["changed"]
        Path(host.paths.sandbox("web").upper, "mark").write_text("1")
        once = {"only": ["web"], "address": "192.0.2.1", "management_ports": [22]}
        for action in ("recreate", "restart"):
            done = foreseen(host, "sandboxes", {**given, **once, action: True}, again=True)
            assert done["changed"] and not [x for x in done["actions"] if x.startswith("other:")]
        nothing = dict.fromkeys(("images", "networks", "volumes", "sandboxes"), [])
        assert foreseen(host, "sandboxes", {**nothing, **dict.fromkeys(purges, True)})["changed"]
