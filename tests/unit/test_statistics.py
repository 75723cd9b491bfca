# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Counters of cgroups, and shares of a processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from sandlot.cgroups import Layout, statistics
from sandlot.cgroups.layout import Hierarchy
from sandlot.cli import stats
from sandlot.site import Site

IO_STAT = """\
254:0 rbytes=1000 wbytes=20 rios=3 wios=1 dbytes=0 dios=0
7:1 rbytes=500 wbytes=5 rios=1 wios=1 dbytes=0 dios=0
"""
SERVICE_BYTES = """\
8:0 Read 1000
8:0 Write 20
8:0 Sync 1020
8:16 Read 500
8:16 Write 5
Total 1525
"""


def host(tmp_path: Path, controller: str, files: dict[str, str]) -> tuple[Site, Layout]:
    site = Site(str(tmp_path))
    hierarchy = Hierarchy(str(tmp_path), frozenset([controller]), unified=controller != "blkio")
    directory = Path(hierarchy.sandbox(site, "a"))
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return site, Layout((hierarchy,))


@pytest.mark.parametrize(
    ("controller", "name", "text", "expected"),
    [
        ("io", "io.stat", IO_STAT, (1500, 25)),
        ("io", "io.stat", "", (0, 0)),
        ("io", "other", "", None),
        ("blkio", "blkio.throttle.io_service_bytes_recursive", SERVICE_BYTES, (1500, 25)),
        ("memory", "memory.max", "max", None),
    ],
)
def test_block_io(
    tmp_path: Path, controller: str, name: str, text: str, expected: tuple[int, int] | None
) -> None:
    site, layout = host(tmp_path, controller, {name: text})
    assert statistics.block_io(site, "a", layout) == expected


def test_the_limit_of_memory_is_at_most_the_hosts(tmp_path: Path) -> None:
    memory = statistics.host_memory()
    for number, text in enumerate(("max", str(memory * 2), "4096")):
        site, layout = host(tmp_path / str(number), "memory", {"memory.max": text})
        assert statistics.memory_limit(site, "a", layout) == (4096 if number == 2 else memory)
    assert statistics.memory_limit(site, "a", Layout(())) is None


@pytest.mark.parametrize(
    ("before", "now", "percent"),
    [
        ((10.0, 1.0), (12.0, 2.0), 50.0),
        ((10.0, 1.0), (11.0, 3.0), 200.0),
        (None, (11.0, 3.0), None),
        ((10.0, None), (11.0, None), None),
        ((10.0, 5.0), (11.0, 1.0), None),
    ],
)
def test_cpu_percent(
    before: tuple[float, float | None] | None, now: tuple[float, float | None], percent: float
) -> None:
    assert stats._cpu_percent(before, now) == percent
