# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""One picture: cost of one more sandbox, second run, memory; ours beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Tuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from rows import KIB, middle  # noqa: E402

OURS = "#1f6feb"
OTHERS = "#9aa4af"
Bars = List[Tuple[str, float]]
Figures = Mapping[str, Any]


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """Of the parts that were measured."""
    panels = {
        "deploy": ("One more sandbox (ms)", _additions, True),
        "again": ("Second run, nothing to do (s)", _second, False),
        "memory": ("Memory per idle sandbox (kB)", _memory, False),
    }
    shown = [name for name in panels if name in parts]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(13, 3.4), squeeze=False)
    for place, name in zip(axes[0], shown):
        title, bars, log = panels[name]
        _bars(place, title, bars(parts[name]["figures"]), log=log)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _additions(figures: Figures) -> Bars:
    ours, theirs = figures["sandlot"], figures["podman"]
    bars = [
        ("bare unshare", middle(ours["bare"]) * 1000),
        ("sandlot", middle(ours["more"]) * 1000),
    ]
    labels = {"run": "podman run", "batch": "podman_containers", "create": "podman_container"}
    return bars + [(label, middle(theirs[key]) * 1000) for key, label in labels.items() if theirs]


def _second(figures: Figures) -> Bars:
    return [
        ("4 pings", middle(figures["pings"])),
        (f"sandlot, {figures['many']} sandboxes", middle(figures["again"])),
    ]


def _memory(figures: Figures) -> Bars:
    bars = [
        (label, middle(figures[key]["each"]) / KIB)
        for key, label in (("idle", "sandlot"), ("lived", "sandlot, after a life"))
        if key in figures
    ]
    if "conmon" in figures:
        bars.append(("podman's conmon", middle(figures["conmon"]) / KIB))
    return bars


def _bars(axes: Axes, title: str, bars: Bars, *, log: bool) -> None:
    labels, values = zip(*bars)
    colours = [OURS if label.startswith("sandlot") else OTHERS for label in labels]
    drawn = axes.barh(labels, values, color=colours, log=log)
    axes.bar_label(drawn, [_number(value) for value in values], padding=3)
    axes.margins(x=0.3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
