# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot metrics: what sandboxes do and use, in Prometheus' text format, one row per metric.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
import sys
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple

from .. import __version__, cgroups, sizes, store, volumes
from ..cgroups import statistics
from ..errors import SpecError
from ..launcher.client import Launcher
from ..sandbox import facts, layers, names
from ..site import Site
from . import stats

Json = Dict[str, Any]
GAUGE, COUNTER = "gauge", "counter"
# node_exporter runs as another user; values and labels are no secrets.
_MODE = 0o644
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metric(NamedTuple):
    """A row: ``value`` of a thing's facts is a number, or None where the thing has none."""

    name: str
    kind: str
    text: str
    value: Callable[[Json], Any]
    labels: Callable[[Json], Mapping[str, str]] = lambda entry: {}


def _fact(key: str) -> Callable[[Json], Any]:
    return lambda entry: entry.get(key)


def _described(entry: Json) -> Mapping[str, str]:
    """Image, profile and labels; of two labels that become one name, the first."""
    known = {"image": entry["image"], "security_profile": entry["security_profile"]}
    for key, value in sorted(entry["labels"].items()):
        known.setdefault(f"label_{_NOT_IN_NAMES.sub('_', key)}", value)
    return known


HOST = (
    Metric("sandlot_info", GAUGE, "The version of sandlot; always 1.", _fact("info"), _fact("by")),
    Metric("sandlot_launcher_up", GAUGE, "Whether the launcher runs.", _fact("launcher")),
)
SANDBOX = (
    Metric(
        "sandlot_sandbox_info",
        GAUGE,
        "Image, security profile and labels; always 1.",
        lambda entry: 1 if "image" in entry else None,
        _described,
    ),
    Metric(
        "sandlot_sandbox_state",
        GAUGE,
        "The state as sandlot list shows it; always 1.",
        lambda entry: 1,
        lambda entry: {"state": entry["state"]},
    ),
    Metric(
        "sandlot_sandbox_wanted",
        GAUGE,
        "Whether the sandbox is to run.",
        lambda entry: entry["wanted"] == "started" if "wanted" in entry else None,
    ),
    Metric(
        "sandlot_sandbox_running",
        GAUGE,
        "Whether the workload runs.",
        lambda entry: entry["state"] in ("running", "restarting") and entry["pid"] is not None,
    ),
    Metric(
        "sandlot_sandbox_healthy",
        GAUGE,
        "Whether it is healthy; only while it runs with a healthcheck.",
        lambda entry: entry["health"] == "healthy" if entry.get("health") else None,
    ),
    Metric(
        "sandlot_sandbox_restarts_total",
        COUNTER,
        "Restarts of the workload since the sandbox was started.",
        _fact("restarts"),
    ),
    Metric(
        "sandlot_sandbox_last_exit_code",
        GAUGE,
        "The exit code of the workload's last end.",
        _fact("exit_code"),
    ),
    Metric(
        "sandlot_sandbox_state_change_time_seconds",
        GAUGE,
        "When the state of a running sandbox last changed, in seconds since 1970.",
        lambda entry: round(time.time() - entry["uptime"]) if entry.get("uptime") else None,
    ),
    Metric(
        "sandlot_sandbox_cpu_seconds_total", COUNTER, "Time of processors.", _fact("cpu_seconds")
    ),
    Metric("sandlot_sandbox_memory_bytes", GAUGE, "Memory with page cache.", _fact("memory")),
    Metric(
        "sandlot_sandbox_memory_limit_bytes",
        GAUGE,
        "The limit of memory, at most the memory of the host.",
        _fact("memory_limit"),
    ),
    Metric(
        "sandlot_sandbox_oom_kills_total",
        COUNTER,
        "Processes that the kernel killed for lack of memory.",
        _fact("oom_kills"),
    ),
    Metric("sandlot_sandbox_processes", GAUGE, "Processes and threads.", _fact("pids")),
    Metric(
        "sandlot_sandbox_refused_processes_total",
        COUNTER,
        "Processes and threads that pids_limit refused.",
        _fact("refused_processes"),
    ),
    Metric(
        "sandlot_sandbox_network_receive_bytes_total",
        COUNTER,
        "Bytes received, without loopback.",
        _fact("received"),
    ),
    Metric(
        "sandlot_sandbox_network_transmit_bytes_total",
        COUNTER,
        "Bytes sent, without loopback.",
        _fact("sent"),
    ),
    Metric(
        "sandlot_sandbox_block_read_bytes_total",
        COUNTER,
        "Bytes read from block devices.",
        _fact("read"),
    ),
    Metric(
        "sandlot_sandbox_block_written_bytes_total",
        COUNTER,
        "Bytes written to block devices.",
        _fact("written"),
    ),
    Metric(
        "sandlot_sandbox_disk_bytes",
        GAUGE,
        "Bytes of the layer; only with disk_size.",
        _fact("disk"),
    ),
    Metric(
        "sandlot_sandbox_disk_limit_bytes", GAUGE, "The disk_size in force.", _fact("disk_limit")
    ),
)
VOLUME = (
    Metric("sandlot_volume_bytes", GAUGE, "Bytes of a volume; only with a size.", _fact("disk")),
    Metric("sandlot_volume_limit_bytes", GAUGE, "The size in force.", _fact("disk_limit")),
)


def run(site: Site, options: argparse.Namespace) -> int:
    host = {"info": 1, "by": {"version": __version__}, "launcher": Launcher(site).listening()}
    layout = cgroups.detect()
    sandboxes = [_sandbox(site, name, layout) for name in names.recorded(site)]
    held = [_bounded(site, volumes.place(site, name), name) for name in volumes.names(site)]
    text = "".join(
        [
            *_lines(HOST, [host], ""),
            *_lines(SANDBOX, [entry for entry in sandboxes if entry], "sandbox"),
            *_lines(VOLUME, held, "volume"),
        ]
    )
    if options.output:
        _check_replaceable(options.output)
        own = f".{os.getpid()}"
        store.replace(options.output, text.encode(), mode=_MODE, durable=False, suffix=own)
    else:
        sys.stdout.write(text)
    return 0


def _check_replaceable(path: str) -> None:
    """Refuse what is no file: a rename would take a device such as /dev/null from the host."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            problem = "is there already, and is no file"
            hint = "name a file to replace, or leave --output out and redirect the output"
            raise SpecError("--output", path, problem, hint=hint)


def _sandbox(site: Site, name: str, layout: cgroups.Layout) -> Json:
    """All facts of a sandbox; {} for one that a run has yet to record."""
    entry = facts.summary(site.sandbox(name), layout)
    if entry is None or "error" in entry:
        return {**entry, "pid": None} if entry else {}
    entry.update(_bounded(site, layers.place(site.sandbox(name)), name))
    if entry["pid"] is None:
        return entry
    usage = cgroups.usage(site, name, layout)
    received, sent = stats.network_bytes(site, name) or (None, None)
    read, written = statistics.block_io(site, name, layout) or (None, None)
    return {
        **entry,
        "cpu_seconds": usage.cpu_seconds,
        "pids": usage.pids,
        "refused_processes": usage.refused_processes,
        "memory_limit": statistics.memory_limit(site, name, layout),
        "received": received,
        "sent": sent,
        "read": read,
        "written": written,
    }


def _bounded(site: Site, place: sizes.Place, name: str) -> Json:
    bound = sizes.look(site, place)
    return {"name": name, "disk": bound.used, "disk_limit": bound.size} if bound.size else {}


def _lines(metrics: Iterable[Metric], entries: List[Json], label: str) -> Iterator[str]:
    """The samples of each metric below its help and type; a metric without any is left out."""
    for metric in metrics:
        samples = [(entry, metric.value(entry)) for entry in entries]
        present = [(entry, value) for entry, value in samples if value is not None]
        if not present:
            continue
        yield f"# HELP {metric.name} {metric.text}\n# TYPE {metric.name} {metric.kind}\n"
        for entry, value in present:
            own = {label: entry["name"]} if label else {}
            yield f"{metric.name}{_labels({**own, **metric.labels(entry)})} {_number(value)}\n"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _number(value: Any) -> str:
    return repr(value + 0)
