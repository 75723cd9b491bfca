# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Records, layers, steps and host-made files, without root."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from sandlot import store
from sandlot.errors import HostError, SandlotError, SpecError
from sandlot.idmap import IdRange
from sandlot.init import users
from sandlot.kernel.trees import remove_tree
from sandlot.network import Interface, Network
from sandlot.plan import Change, Operation, apply_each, batch, descriptions, of_one
from sandlot.sandbox import etcfiles, launchfile, names, process, record
from sandlot.sandbox.record import ImageRef, Record
from sandlot.site import Site
from sandlot.spec import normalise

NETWORK = Network("default", "sandlot0", "10.77.0.0/22", "10.77.0.1", dns_servers=("192.0.2.53",))
IMAGE = ImageRef("busybox", "0f" * 32, ("/var/lib/sandlot/images/trees/0f/root",))


def a_record(name: str = "web", **options: object) -> Record:
    spec = normalise({"name": name, "image": "busybox", "command": ["true"], **options})
    interface = Interface(
        name, "default", "eth0", "sb-1", "02:00:00:00:00:02", "10.77.0.2/22", "10.77.0.1"
    )
    return Record(name, record.PRESENT, "started", spec, IdRange(200000), IMAGE, (interface,))


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    written = a_record(memory="64m", env={"A": "ä\n"}, published_ports=["8080:80"])
    record.save(paths, written)
    assert record.load(paths, "web") == written
    assert record.load(paths, "other") is None
    assert record.load_all(paths).names() == {"web"}
    mode = os.stat(paths.sandbox("web").record).st_mode & 0o777
    assert mode == 0o600


def test_a_broken_record_is_kept_as_its_error(tmp_path: Path) -> None:
    paths = Site(str(tmp_path))
    for name in ("good", "bad"):
        record.save(paths, a_record(name))
    Path(paths.sandbox("bad").record).write_text('{"schema": 1, "name": "bad"}')
    os.mkdir(f"{paths.sandboxes}/empty")
    found = record.load_all(paths)
    assert set(found.good) == {"good"} and set(found.broken) == {"bad"}
    assert "bad" in found.broken["bad"].hint
    assert names.recorded(paths) == ["bad", "empty", "good"]


def deep(top: Path, depth: int) -> None:
    """Deeper than paths may be long, as a tenant makes it: step by step."""
    back = os.open(".", os.O_RDONLY)
    os.chdir(top)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
        Path("f").touch()
    os.fchdir(back)
    os.close(back)


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    deep(tree, 5000)
    remove_tree(str(tree))
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_removed_without_room_for_more_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for path in itertools.product("abc", repeat=5):
        (tree / "/".join(path)).mkdir(parents=True)
    monkeypatch.setattr(os, "rename", no_room)
    remove_tree(str(tree))
    assert list(tmp_path.iterdir()) == []


def no_room(*_words: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_takes_a_record_by_its_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, as the record before becomes the spare; the control has none."""
    paths = Site(str(tmp_path))
    first = a_record()
    record.save(paths, first)
    kept = {
        os.stat(path).st_ino for path in (paths.sandbox("web").record, paths.sandbox("web").spare)
    }
    monkeypatch.setattr(store, "replace", no_room)
    for wanted in ("stopped", "started", "stopped"):
        record.save(paths, replace(first, wanted=wanted))
        assert record.load(paths, "web") == replace(first, wanted=wanted)
    sandbox = paths.sandbox("web")
    assert {os.stat(path).st_ino for path in (sandbox.record, sandbox.spare)} == kept
    with pytest.raises(OSError, match="No space left"):
        record.save(paths, a_record(env={"A": "x" * 8192}))
    assert record.load(paths, "web") == replace(first, wanted="stopped")
    os.unlink(sandbox.spare)
    with pytest.raises(OSError, match="No space left"):
        record.save(paths, first)


def test_records_of_an_earlier_version_get_spares(tmp_path: Path) -> None:
    """A directory without a record is no obstacle."""
    paths = Site(str(tmp_path))
    record.save(paths, a_record())
    os.unlink(paths.sandbox("web").spare)
    os.mkdir(f"{paths.sandboxes}/empty")
    record.keep_spares(paths)
    size = os.stat(paths.sandbox("web").spare).st_size
    assert size >= os.stat(paths.sandbox("web").record).st_size
    assert not os.listdir(f"{paths.sandboxes}/empty")


def test_removal_follows_no_link(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "kept").touch()
    (tree / "sub").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "sub" / "link").symlink_to(outside)
    (tree / "sub" / "dangling").symlink_to("/no/such")
    os.mkfifo(tree / "sub" / "fifo")
    remove_tree(str(tree))
    assert not tree.exists() and (outside / "kept").exists()
    (tmp_path / "top").symlink_to(outside)
    with pytest.raises(OSError):
        remove_tree(str(tmp_path / "top"))
    remove_tree(str(tmp_path / "none"))


def test_a_failed_sandbox_is_left_out_of_what_follows() -> None:
    done: list[str] = []

    def fail() -> None:
        raise SandlotError("broken", hint="mend it")

    steps = [
        Operation("a", "plug", fail, subject="a"),
        Operation("a", "limit", lambda: done.append("a limit"), subject="a"),
        Operation("b", "limit", lambda: done.append("b limit"), subject="b"),
        *batch("start", ["a", "b"], lambda names, failures: done.extend(names)),
        *batch("stop", ["a"], lambda names, failures: done.append("never")),
    ]
    failures = apply_each(steps)
    assert done == ["b limit", "b"]
    assert {name: str(error) for name, error in failures.items()} == {
        "a": "a: plug: broken; mend it"
    }


def test_what_is_not_one_sandboxes_own_ends_the_run() -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "/x")

    with pytest.raises(HostError, match=r"a: write record: .*No space left on device"):
        apply_each([Operation("a", "write record", full, subject="a")])

    def refuse() -> None:
        raise SpecError("x", 1, "is wrong")

    with pytest.raises(SandlotError, match="rules: replace: x: 1 is wrong"):
        apply_each([Operation("rules", "replace", refuse)])


def test_lines_say_what_steps_do() -> None:
    silent = of_one("web", [Operation("web", "plug", lambda: None)], silent=True)
    lines = of_one("web", [Operation("web", "restart", None, Change.RESTART)], silent=False)
    assert descriptions([*silent, *lines]) == ["web: restart (restart)"]
    assert {each.subject for each in (*silent, *lines)} == {"web"}


def around(*records: Record) -> etcfiles.Surroundings:
    interfaces = {entry.name: entry.interfaces for entry in records}
    return etcfiles.surroundings({"default": NETWORK}, {e.name: e for e in records}, interfaces)


def test_who_shares_a_network_has_the_files_of_its_owner_and_its_own() -> None:
    owner = a_record(etc_hosts={"db": "192.0.2.1"}, dns_servers=["192.0.2.54"])
    options = {"network_mode": "container:web", "etc_hosts": {"x": "192.0.2.9"}}
    sharer = replace(a_record("side", **options), interfaces=())
    files = etcfiles.contents(sharer, around(owner, sharer))
    assert files["hostname"] == b"side\n"
    assert files["hosts"].splitlines()[2:] == [
        b"10.77.0.2\tside web",
        b"192.0.2.1\tdb",
        b"192.0.2.9\tx",
    ]
    assert b"nameserver 192.0.2.54\n" in files["resolv.conf"]
    assert b"10.77.0.2\tweb side\n" in etcfiles.contents(owner, around(owner, sharer))["hosts"]


def test_a_host_without_a_reachable_resolver_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = {"default": replace(NETWORK, dns_servers=())}
    monkeypatch.setattr(etcfiles.network, "unreachable_resolvers", lambda families: ["127.0.0.1"])
    (lines,) = etcfiles.warnings([a_record()], bare)
    assert "no name server for web" in lines and "127.0.0.1" in lines and "dns_servers" in lines
    assert etcfiles.warnings([a_record()], {"default": NETWORK}) == []
    assert etcfiles.warnings([a_record(dns_servers=["192.0.2.1"])], bare) == []
    assert etcfiles.warnings([replace(a_record(), interfaces=())], bare) == []
    monkeypatch.setattr(etcfiles.network, "unreachable_resolvers", lambda families: [])
    assert etcfiles.warnings([a_record()], bare) == []


def test_servers_of_a_family_that_a_sandbox_lacks_are_left_out_with_a_warning() -> None:
    four, six = a_record(dns_servers=["2001:db8::1", "192.0.2.1"]), a_record("db")
    known = {"default": replace(NETWORK, dns_servers=("2001:db8::1", "2001:db8::2"))}
    around = etcfiles.surroundings(known, {}, {})
    assert etcfiles.contents(four, around)["resolv.conf"].startswith(b"nameserver 192.0.2.1\n")
    assert b"nameserver" not in etcfiles.contents(six, around)["resolv.conf"]
    (warning,) = etcfiles.warnings([four, six], known)
    assert warning.startswith(
        "no name server for db: sandboxes can't reach their dns_servers (2001"
    )
    dual = replace(six, interfaces=(replace(six.interfaces[0], ipv6="fd77::2/64"),))
    assert etcfiles.contents(dual, around)["resolv.conf"].startswith(b"nameserver 2001:db8::1\n")
    assert etcfiles.warnings([dual], known) == []


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("bridge", None),
        ("none", None),
        ("host", "/proc/self/ns/net"),
        ("container:db", "/moved/run/sandlot/db/ns/net"),
        ("ns:/run/netns/vpn", "/run/netns/vpn"),
    ],
)
def test_a_foreign_network_is_joined_and_not_configured(mode: str, path: str | None) -> None:
    entry = a_record(network_mode=mode, allow_host_network=True, sysctls={"kernel.shmmax": "9"})
    launch = launchfile.content(Site("/moved"), entry, [])
    assert launch.get("netns") == ({"mode": mode, "path": path} if path else None)
    assert ("net.ipv4.ip_unprivileged_port_start" in launch["sysctls"]) == (path is None)
    assert launch["sysctls"]["kernel.shmmax"] == "9"


def test_host_made_files() -> None:
    entry = a_record(etc_hosts={"db": "192.0.2.1"}, hostname="www")
    files = etcfiles.contents(entry, around(entry))
    assert files["hostname"] == b"www\n"
    assert b"nameserver 192.0.2.53\n" in files["resolv.conf"]
    assert b"192.0.2.1\tdb" in files["hosts"] or b"192.0.2.1 db" in files["hosts"]
    own = a_record(dns_servers=["192.0.2.1"])
    files = etcfiles.contents(own, around())
    assert b"192.0.2.53" not in files["resolv.conf"]


def test_a_published_image_gets_its_volumes_and_logs_of_process_1() -> None:
    paths, entry = Site("/moved"), a_record()
    config = {"volumes": ["/data", "/sys/fs/cgroup", "/proc/x"], "security_profile": "daemon"}
    published = replace(entry, image=replace(entry.image, config=config))
    launch = launchfile.content(paths, published, [])
    assert (launch["directories"], launch["log_files"]) == (["/data"], True)
    # Sandboxes that an upgrade finds go on.
    bare = {key: value for key, value in launch.items() if key not in ("directories", "log_files")}
    assert launchfile.digest(bare) == launch["digest"]
    other = launchfile.content(paths, entry, [])
    assert not {"directories", "log_files"} & set(other)


def test_live_options_are_outside_of_the_launch_digest() -> None:
    paths = Site("/moved")

    def launch(**options: object) -> dict[str, object]:
        return launchfile.content(paths, a_record(**options), ["/sys/fs/cgroup/sandlot/web"])

    base = launch()["digest"]
    live = {
        "memory": "64m",
        "labels": {"a": "b"},
        "stop_timeout": 3,
        "restart_policy": "no",
        "published_ports": ["80:80"],
        "etc_hosts": {"a": "192.0.2.1"},
    }
    for option, value in live.items():
        assert launch(**{option: value})["digest"] == base, option
    restarting = {
        "env": {"A": "b"},
        "user": "33",
        "capabilities": ["NET_RAW"],
        "seccomp_profile": "unconfined",
        "tmpfs": ["/x"],
        "read_only": True,
        "time_offset": {"boottime": 5},
    }
    for option, value in restarting.items():
        assert launch(**{option: value})["digest"] != base, option


def test_host_and_version_are_outside_of_the_launch_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Site("/moved")
    base = launchfile.content(paths, a_record(), ["/sys/fs/cgroup/sandlot/web"])
    monkeypatch.setattr(launchfile.security, "MASKED", ("/proc/new",))
    monkeypatch.setattr(launchfile, "_seccomp", lambda *options: "AAAA")
    other = launchfile.content(paths, a_record(), ["/sys/fs/cgroup/hugetlb/sandlot/web"])
    assert other != base
    assert other["digest"] == base["digest"]


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({}, ["HOME", "USER", "LOGNAME", "SHELL"]),
        ({"HOME": "/data", "SHELL": ""}, ["USER", "LOGNAME"]),
        ({"HOME": "/root", "USER": "me"}, ["LOGNAME", "SHELL"]),
    ],
)
def test_login_variables_are_those_that_nobody_sets(env: dict[str, str], names: list[str]) -> None:
    """A launch file of dd050e5 has no key for them; a new key restarts nothing."""
    launch = launchfile.content(Site("/moved"), a_record(env=env), [])
    assert sorted(users.login_names(launch)) == sorted(names)
    assert ("login" in launch) == (env.get("HOME") == "/root")
    assert launch["digest"] == launchfile.digest({**launch, "login": ["x"]})


# -- what the image brings ------------------------------------------------------------------------

CONFIG = {
    "entrypoint": ["/entry"],
    "command": ["serve"],
    "env": {"A": "image", "PATH": "/opt/bin"},
    "user": "redis",
    "working_dir": "/data",
    "stop_signal": "SIGQUIT",
    "labels": {"maintainer": "them"},
}


def with_config(**options: object) -> Record:
    options.setdefault("command", [])
    return replace(a_record(**options), image=replace(IMAGE, config=CONFIG))


def test_a_sandbox_without_a_command_is_refused() -> None:
    with pytest.raises(SpecError, match="command"):
        process.process(a_record(command=[]))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"env": {"A": "x" * 131070}}, r"env\['A'\]: 131072 of sandbox web, with its name"),
        ({"env": {str(n): "x" * 100_000 for n in range(21)}}, r"env: 21\d+ bytes .*'stack:8[\d]+"),
        ({"env": {str(n): "x" * 100_000 for n in range(63)}}, "put them into files$"),
        ({"command": ["a", *["x" * 100_000] * 21]}, "env: 21"),
        ({"command": [""] * 300_000}, "env: 27"),
        ({"env": {"A": "x" * 100_000, "B": "x" * 99_999}, "ulimits": ["stack:65536"]}, "65536"),
    ],
)
def test_what_the_kernel_would_not_execute_is_refused(
    options: dict[str, object], problem: str
) -> None:
    with pytest.raises(SpecError, match=problem) as refused:
        process.process(a_record(**options))
    assert "xxx" not in str(refused.value)


def test_what_the_kernel_executes_is_not() -> None:
    env = {str(n): "x" * 100_000 for n in range(20)}
    assert len(process.process(a_record(env=env)).env) > 20
    env = {str(n): "x" * 100_000 for n in range(62)}
    assert process.process(a_record(env=env, ulimits=["stack:25165824:-1"])).env["61"]
    assert process.process(a_record(env={"A": "x" * 131069})).env["A"]


def test_the_image_brings_defaults() -> None:
    found = process.process(with_config())
    assert found.argv == ("/entry", "serve")
    assert (found.user, found.working_dir, found.stop_signal) == ("redis", "/data", signal.SIGQUIT)
    assert found.env == {"PATH": "/opt/bin", "HOME": "/root", "HOSTNAME": "web", "A": "image"}
    assert process.labels(with_config(labels={"mine": "1"})) == {"maintainer": "them", "mine": "1"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("entrypoint", ["/x"]),
        ("command", ["x"]),
        ("user", "0"),
        ("working_dir", "/"),
        ("stop_signal", "TERM"),
        ("healthcheck", {"test": ["NONE"]}),
    ],
)
def test_a_bad_value_of_an_image_is_refused_without_one_of_the_spec(
    option: str, value: object
) -> None:
    bad = {**CONFIG, "wrong": {option: "it is wrong"}}
    bad.pop(option, None)

    def runs(**options: object) -> process.Process:
        record = with_config(**options)
        return process.process(replace(record, image=replace(record.image, config=bad)))

    with pytest.raises(SpecError, match=f"{option}: 'busybox' .* it is wrong; set {option} in"):
        runs()
    assert runs(**{option: value}).argv
    if option == "command":
        assert runs(entrypoint=["/x"]).argv == ("/x",)


def test_a_spec_overrides_its_image() -> None:
    given = {"user": "0", "working_dir": "/", "stop_signal": "TERM", "env": {"A": "mine"}}
    found = process.process(with_config(**given))
    assert (found.user, found.working_dir, found.stop_signal) == ("0", "/", signal.SIGTERM)
    assert found.env["A"] == "mine"
    assert process.process(with_config(command=["other"])).argv == ("/entry", "other")
    # As with docker: another entry point leaves the image's command out.
    assert process.process(with_config(entrypoint=["/mine"])).argv == ("/mine",)
