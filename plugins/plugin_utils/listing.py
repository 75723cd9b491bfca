# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Reads what a host says of its sandboxes; a host is not trusted, so every value is checked.

Texts are for people and for names of groups: control characters are escaped in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..module_utils.sandlot.kernel.text import harmless

Json = dict[str, Any]
# A thousand sandboxes take about half a megabyte.
MOST_BYTES = 16 << 20
MOST_SANDBOXES = 10_000
# Each makes a group, which takes Ansible a millisecond.
MOST_LABELS = 20_000
LONGEST_LABEL = 100
_SHOWN_PROBLEMS = 5
_NAME = re.compile(r"(?!.*\.\.)[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:@/+-]{0,254}")
_STATE = re.compile(r"[a-z][a-z-]{0,31}")
_ADDRESS = re.compile(r"[0-9a-fA-F.:]{1,45}")
_PORT = re.compile(r"[0-9a-zA-Z.:/\[\]-]{1,100}")


def parsed(output: bytes) -> Any:
    """The JSON of ``sandlot list``; ValueError when it is none, or too long."""
    if len(output) > MOST_BYTES:
        raise ValueError(f"its answer has {len(output)} bytes; {MOST_BYTES} are the limit")
    try:
        return json.loads(output)
    except (ValueError, RecursionError) as error:
        raise ValueError("its answer is not JSON; upgrade sandlot on the host") from error


def checked(data: Any) -> tuple[list[Json], list[str]]:
    """The usable records of a listing, and what is wrong with the others.

    ValueError when it is no listing at all.
    """
    if not isinstance(data, list):
        raise ValueError("its answer is no list of sandboxes; upgrade sandlot on the host")
    if len(data) > MOST_SANDBOXES:
        raise ValueError(f"it has {len(data)} sandboxes; {MOST_SANDBOXES} are the limit")
    records: dict[str, Json] = {}
    problems = []
    for index, entry in enumerate(data):
        try:
            record = _record(entry)
            if record["name"] in records:
                raise ValueError("is there twice")
            records[record["name"]] = record
        except ValueError as error:
            problems.append(f"{_called(entry, index)} {error}")
    labels = sum(len(record["labels"]) for record in records.values())
    if labels > MOST_LABELS:
        raise ValueError(f"its sandboxes have {labels} labels; {MOST_LABELS} are the limit")
    return list(records.values()), _few(problems)


def _called(entry: Any, index: int) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"sandbox {excerpt(name)}" if isinstance(name, str) else f"record {index}"


def _few(problems: list[str]) -> list[str]:
    more = len(problems) - _SHOWN_PROBLEMS
    return [*problems[:_SHOWN_PROBLEMS], *([f"{more} more are unusable"] if more > 0 else [])]


def _record(entry: Any) -> Json:
    if not isinstance(entry, dict):
        raise ValueError("is no mapping")
    if isinstance(entry.get("error"), str):
        raise ValueError(f"is broken: {excerpt(entry['error'])}")
    return {
        "name": _text(entry, "name", _NAME),
        "image": _text(entry, "image", _IMAGE),
        "state": _text(entry, "state", _STATE),
        # Hosts with an earlier version of sandlot say nothing of labels.
        "labels": _labels(entry.get("labels", {})),
        "addresses": _texts(entry, "addresses", _ADDRESS),
        "published_ports": _texts(entry, "published_ports", _PORT),
        "health": None if entry.get("health") is None else _text(entry, "health", _STATE),
    }


def _text(entry: Json, key: str, form: re.Pattern[str]) -> str:
    return _matching(entry.get(key), key, form)


def _texts(entry: Json, key: str, form: re.Pattern[str]) -> list[str]:
    values = entry.get(key)
    if not isinstance(values, list):
        raise ValueError(f"has no list of {key}")
    return [_matching(value, key, form) for value in values]


def _matching(value: Any, key: str, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"has no valid {key}: {excerpt(value)}")
    return value


def _labels(labels: Any) -> dict[str, str]:
    if not isinstance(labels, dict) or not all(isinstance(x, str) for x in labels.values()):
        raise ValueError("has labels that are no mapping of texts")
    return {_printable(key): _printable(value) for key, value in labels.items()}


def _printable(text: str) -> str:
    """A text of several lines; what else could control a terminal is escaped."""
    return "\n".join(harmless(line) for line in text.split("\n"))


def excerpt(value: Any, longest: int = 200) -> str:
    """One short line of foreign text."""
    text = value if isinstance(value, str) else type(value).__name__
    return harmless(text if len(text) <= longest else f"{text[:longest]}...")


def groups(record: Json, host: str, sanitised: Callable[[str], str]) -> list[str]:
    """Names of the groups of a sandbox, beside the one of all sandboxes."""
    texts = [f"host_{host}", f"image_{record['image']}", f"state_{record['state']}"]
    texts += _of_labels(record["labels"].items())
    return [sanitised(text) for text in texts]


def _of_labels(labels: Iterable[tuple[str, str]]) -> list[str]:
    """One for each label; texts of more than one short line name no group."""
    short = ((key, value) for key, value in labels if "\n" not in key + value)
    texts = (f"label_{key}_{value}" if value else f"label_{key}" for key, value in short)
    return [text for text in texts if len(text) <= LONGEST_LABEL]
