# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot run: a job's streams, exit code, options and limits, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from converge_fixtures import Deployment, needs_root, sandbox
from job_fixtures import SECONDS, begun, environment, job, left, words
from sandlot import cgroups, converge
from sandlot.sandbox.job_slots import paths_of

pytestmark = needs_root


def test_streams_and_exit_code(host: Deployment) -> None:
    script = "cat; echo out; echo err >&2; exit 7"
    payload = bytes(range(256)) * 1000
    done = job(host, "sh", "-c", script, options=("-i",), input=payload, text=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, payload + b"out\n", b"err\n")
    assert job(host, "cat", input="not passed on").stdout == ""
    assert left(host) == []


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (("nosuch",), 127, "nosuch: command not found"),
        (("/etc/passwd",), 126, "Permission denied"),
        (("sh", "-c", "kill -9 $$"), 128 + signal.SIGKILL, ""),
    ],
)
def test_exit_codes_are_those_of_a_shell(
    host: Deployment, command: tuple[str, ...], code: int, message: str
) -> None:
    done = job(host, *command)
    assert done.returncode == code and message in done.stderr
    assert left(host) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "nosuch"), "'nosuch' is not an image of this host"),
        (("--memory", "1x"), "--memory: '1x' is not a size"),
        (("--network", "host"), "--network: 'host' is not for jobs"),
        (("--network", "nosuch"), "--network: 'nosuch' is no network of this host"),
        (("--network", "container:nosuch"), "--network: 'container:nosuch' names no sandbox"),
        (("--volume", "nosuch:/data"), "--volume: 'nosuch' is no volume of this host"),
        (("--volume", "/a:/b:x"), "--volume: "),
        (("--disk-size", "1k"), "--disk-size: "),
        (("--cap-add", "NOSUCH"), "--cap-add: "),
        (("-w", "/etc/passwd"), "/etc/passwd in the image leads to no directory"),
        (("--user", "nobody-here"), "nobody-here"),
    ],
)
def test_what_is_refused(host: Deployment, options: tuple[str, ...], message: str) -> None:
    done = job(host, "true", options=options)
    assert done.returncode == 125 and message in done.stderr, done.stderr
    assert left(host) == []


def test_without_a_command_nothing_runs(host: Deployment) -> None:
    done = job(host)
    assert done.returncode == 125 and "image busybox has no command" in done.stderr
    assert left(host) == []


def test_the_image_has_the_defaults(host: Deployment) -> None:
    record = json.loads(Path(host.paths.images, "busybox.json").read_text())
    config = {"entrypoint": ["echo", "entry"], "command": ["cmd"], "env": {"A": "1"}}
    other = {**record, "name": "other", "config": {**config, "working_dir": "/tmp", "user": "3"}}
    Path(host.paths.images, "other.json").write_text(json.dumps(other))
    image = ("--image", "other")
    assert job(host, options=image).stdout == "entry cmd\n"
    assert job(host, "x", options=image).stdout == "entry x\n"
    script = "echo $A $(pwd) $(id -u)"
    done = job(host, "-c", script, options=(*image, "--entrypoint", "sh"))
    assert done.stdout == "1 /tmp 3\n"


def test_options_of_the_sandbox(host: Deployment) -> None:
    options = (
        *("--user", "1000", "-w", "/var", "--hostname", "box", "-e", "A=b", "--read-only"),
        *("--ulimit", "nofile=64:64", "--tmpfs", "/scratch:size=1m"),
    )
    script = "id -u; pwd; hostname; echo $A; ulimit -n; touch /x || touch /scratch/x; ls /scratch"
    done = job(host, "sh", "-c", script, options=options)
    assert done.stdout.split() == ["1000", "/var", "box", "b", "64", "x"]
    interfaces = job(host, "ls", "/sys/class/net").stdout.split()
    assert interfaces == ["lo"]  # without a network, unless one is asked for


def test_limits_are_in_force_from_the_first_instruction(host: Deployment) -> None:
    options = ("--memory", "64m", "--pids-limit", "23", "--cpus", "0.5")
    client = begun(host, "sh", "-c", "echo; read x", options=options)
    layout = cgroups.detect()
    for controller, file, value in (
        ("memory", "memory.limit_in_bytes memory.max", str(64 << 20)),
        ("pids", "pids.max pids.max", "23"),
        ("cpu", "cpu.cfs_quota_us cpu.max", "50000"),
    ):
        hierarchy = layout.having(controller)
        assert hierarchy is not None
        name = file.split()[hierarchy.unified]
        directory = hierarchy.sandbox(host.paths, ".job-0")
        assert Path(directory, name).read_text().split()[0] == value
    client.communicate(b"\n", timeout=SECONDS)
    assert client.returncode == 0 and left(host) == []


def test_each_job_has_a_root_of_its_own(host: Deployment) -> None:
    assert job(host, "sh", "-c", "echo x > /etc/passwd; touch /left").returncode == 0
    assert job(host, "sh", "-c", "ls /left; wc -l < /etc/passwd").stdout.strip() > "1"


def test_jobs_at_the_same_time_have_ids_of_their_own(host: Deployment) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            begun(host, "sh", "-c", "echo; read x; cat /proc/self/uid_map") for _ in range(4)
        ]
        for client in clients:
            stack.callback(client.kill)
        outputs = [client.communicate(b"\n", timeout=SECONDS)[0] for client in clients]
    starts = {int(output.split()[1]) for output in outputs}
    assert len(starts) == 4 and left(host) == []


def test_many_clients_at_once_leave_nothing(host: Deployment) -> None:
    """They make and remove the directory of all jobs at the same time."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: job(host, "sh", "-c", "echo x > /x; cat /x"), range(24)))
    assert {(each.returncode, each.stdout, each.stderr) for each in done} == {(0, "x\n", "")}
    assert left(host) == []


def test_many_leave_nothing(host: Deployment) -> None:
    def files() -> set[str]:
        found = {str(path) for path in Path(host.paths.run).rglob("*")}
        return found | {str(path) for path in Path(host.paths.root, "etc").rglob("*")}

    job(host, "true")
    before, (launch,) = files(), os.scandir(f"{paths_of(host.paths, 0).run}/known")
    mounts = Path("/proc/self/mountinfo").read_text().count(host.paths.root)
    assert [job(host, "sh", "-c", "echo x > /x").returncode for _ in range(20)] == [0] * 20
    assert files() == before and left(host) == []
    assert Path("/proc/self/mountinfo").read_text().count(host.paths.root) == mounts
    # Another job with these options needs no other launch file.
    assert os.stat(launch).st_ino == launch.inode()
    done = job(host, "hostname", options=("--hostname", "other"))
    assert done.stdout == "other\n"


def test_a_size_on_disk_ends_with_the_job(host: Deployment) -> None:
    options = ("--disk-size", "20m")
    done = job(host, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40", options=options)
    assert done.returncode == 1 and "No space left" in done.stderr
    assert job(host, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40").returncode == 0
    assert left(host) == []


def test_a_job_in_the_network_of_a_sandbox_with_a_volume(host: Deployment) -> None:
    web = sandbox("web", command=["httpd", "-f", "-h", "/data"], volumes=["data:/data"])
    host.converged(web)
    options = ("--network", "container:web", "--volume", "data:/data")
    script = "echo hello > /data/index.html; wget -qO- http://127.0.0.1/"
    done = job(host, "sh", "-c", script, options=options)
    assert done.stdout == "hello\n", done.stderr


def test_deploys_leave_running_jobs_alone(host: Deployment) -> None:
    client = begun(host, "sh", "-c", "echo; read x; echo end")
    host.converged(sandbox("a"))
    assert host.run(purge=True).failed == {}
    output, _ = client.communicate(b"\n", timeout=SECONDS)
    assert (client.returncode, output) == (0, b"end\n")


def test_a_teardown_ends_jobs(own_host: Deployment) -> None:
    client = begun(own_host, "sh", "-c", "echo; sleep 1000")
    own_host.teardown()
    _, errors = client.communicate(timeout=SECONDS)
    assert client.returncode == 128 + signal.SIGKILL and b"was killed" in errors
    own_host.prepare()


def test_a_terminal(host: Deployment) -> None:
    command = " ".join(words(host, "tty", options=("-it",)))
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        env=environment(host),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
    )
    # script(1) sends its own end of file, which the terminal may show.
    assert b"/dev/pts/0" in done.stdout and left(host) == []


# -- on a network


def test_a_job_on_a_network_reaches_its_neighbours(host: Deployment) -> None:
    host.converged(sandbox("web", command=["httpd", "-f", "-h", "/etc"]))
    before = host.info("web")
    done = job(host, "wget", "-qO-", "http://web/hostname", options=("--network", "default"))
    assert (done.returncode, done.stdout) == (0, "web\n"), done.stderr
    assert left(host) == [] and [entry["name"] for entry in converge.info(host.paths)] == ["web"]
    assert host.info("web")["pid"] == before["pid"]
    assert host.run(sandbox("web", command=["httpd", "-f", "-h", "/etc"])).actions == []


def test_a_deploy_leaves_a_job_on_a_network_alone(host: Deployment) -> None:
    client = begun(host, "sh", "-c", "echo; read x; echo end", options=("--network", "default"))
    assert host.run(purge=True).failed == {}
    output, _ = client.communicate(b"\n", timeout=SECONDS)
    assert (client.returncode, output) == (0, b"end\n")
    assert converge.info(host.paths) == []


def test_a_killed_client_of_a_job_on_a_network(host: Deployment) -> None:
    client = begun(host, "sh", "-c", "echo; sleep 1000", options=("--network", "default"))
    client.kill()
    client.communicate()
    assert len(converge.info(host.paths)) == 1
    assert job(host, "echo", "next").stdout == "next\n"
    assert converge.info(host.paths) == [] and left(host) == []
