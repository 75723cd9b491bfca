# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Every key of a service in the Compose specification has a fate, and has it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_cases import CASES, converted, usual
from sandlot_plugins.plugin_utils.compose import ComposeError

keys = importlib.import_module("sandlot_plugins.plugin_utils.compose.keys")
PAGE = Path(__file__).resolve().parents[3] / "docs/compose.md"
# The properties of a service in the schema of the specification, of June 2026.
SPECIFICATION = """
annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs
container_name cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares
cpus cpuset credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt
dns_search domainname entrypoint env_file environment expose extends external_links extra_hosts gpus
group_add healthcheck hostname image init ipc isolation label_file labels links logging mac_address
mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable
oom_score_adj pid pids_limit platform ports post_start pre_stop privileged profiles provider
pull_policy pull_refresh_after read_only restart runtime scale secrets security_opt shm_size
stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user
userns_mode uts volumes volumes_from working_dir
""".split()
# A value of each key that is not carried over, in YAML.
EXAMPLES = {
    "annotations": "{a: b}",
    "attach": "false",
    "blkio_config": "{device_read_bps: [{path: /dev/sda, rate: 1mb}]}",
    "build": ".",
    "cgroup": "host",
    "cgroup_parent": "/a",
    "cpu_count": "1",
    "cpu_percent": "10",
    "cpu_rt_period": "10",
    "cpu_rt_runtime": "10",
    "credential_spec": "{file: a}",
    "develop": "{watch: []}",
    "device_cgroup_rules": "['c 1:3 mr']",
    "dns_opt": "['ndots:1']",
    "dns_search": "example.com",
    "expose": "[80]",
    "external_links": "[a]",
    "gpus": "all",
    "group_add": "[a]",
    "init": "true",
    "ipc": "host",
    "isolation": "hyperv",
    "mem_swappiness": "10",
    "models": "[a]",
    "oom_kill_disable": "true",
    "oom_score_adj": "100",
    "pid": "host",
    "post_start": "[{command: a}]",
    "pre_stop": "[{command: a}]",
    "privileged": "true",
    "provider": "{type: a}",
    "pull_refresh_after": "1h",
    "runtime": "nvidia",
    "stdin_open": "true",
    "tty": "true",
    "use_api_socket": "true",
    "userns_mode": "host",
    "uts": "host",
    "volumes_from": "[a]",
}
ASK_NOTHING = {
    "annotations": "{}",
    "cgroup": "private",
    "dns_search": "[]",
    "gpus": "[]",
    "ipc": "shareable",
    "isolation": "default",
    "oom_kill_disable": "false",
    "pid": "",
    "privileged": "false",
    "runtime": "runc",
    "tty": "'false'",
    "use_api_socket": "false",
    "userns_mode": "''",
    "volumes_from": "[]",
}


def of(fate: str) -> list[str]:
    return [key for key, row in keys.KEYS.items() if row.fate == fate]


def test_every_key_of_the_specification_has_a_row() -> None:
    assert sorted(keys.KEYS) == sorted(SPECIFICATION)


def test_every_key_that_is_not_carried_over_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted({*SPECIFICATION} - {*of(keys.CARRIED)})


def _case(key: str, value: str) -> dict[str, Any]:
    head = "services:\n  web:\n"
    image = "" if key == "build" else "    image: app:1\n"
    return {"file": f"{head}{image}    {key}: {value}\n"}


@pytest.mark.parametrize("key", of(keys.REFUSED))
def test_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=rf"compose\.yml:[34]: services\.web\.{key}.*: .*; "):
        converted(_case(key, EXAMPLES[key]), tmp_path)


@pytest.mark.parametrize("key", of(keys.WARNED))
def test_warned_about(key: str, tmp_path: Path) -> None:
    result, warnings = converted(_case(key, EXAMPLES[key]), tmp_path)
    assert usual(result["sandbox_instances"][0]) == {}
    assert [f"{tmp_path}/compose.yml:4: services.web.{key}: "] == [
        line[: line.index(f"{key}: ") + len(key) + 2] for line in warnings
    ]


@pytest.mark.parametrize("key", of(keys.SILENT))
def test_left_out(key: str, tmp_path: Path) -> None:
    result, warnings = converted(_case(key, EXAMPLES[key]), tmp_path)
    assert (usual(result["sandbox_instances"][0]), warnings) == ({}, [])


@pytest.mark.parametrize("key", ASK_NOTHING)
def test_values_that_ask_for_nothing(key: str, tmp_path: Path) -> None:
    result, warnings = converted(_case(key, ASK_NOTHING[key]), tmp_path)
    assert (usual(result["sandbox_instances"][0]), warnings) == ({}, [])


def _used() -> set[str]:
    """Keys of services in the cases, whose outcome a case compares."""
    rows = [row for path in CASES.glob("*.yml") for row in yaml.safe_load(path.read_text())]
    texts = [
        text
        for row in rows
        if {"expected", "result"} & set(row)
        for text in (row.get("file", ""), row.get("service", ""), *row.get("also", {}).values())
    ]
    return {key for key in SPECIFICATION for text in texts if re.search(rf"\b{key}:", text)}


def test_every_key_that_is_carried_over_is_in_a_case() -> None:
    assert {*of(keys.CARRIED)} - _used() == set()


def test_the_page_tells_the_fate_of_every_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("## Keys of a service")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", section, re.M)
    named = [key for row in rows for key in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(named) == sorted(keys.KEYS)


ODD = ("null", "''", "a", "-1", "0", "1.5", "true", "[]", "[null]", "[1]", "[[a]]", "[{}]", "{}")
ODD += ("{a: null}", "{a: {}}", "{a: [null]}", "[{a: b}]", "{test: 1}", "2001-01-01")


@pytest.mark.parametrize("key", SPECIFICATION)
def test_any_value_is_converted_or_refused(key: str, tmp_path: Path) -> None:
    """No value of another type ends in a traceback, nor does it below a key."""
    for number, value in enumerate(ODD):
        directory = tmp_path / str(number)
        directory.mkdir()
        case = _case(key, value)
        if key == "image":
            case = {"file": f"services: {{web: {{image: {value}}}}}\n"}
        try:
            converted(case, directory)
        except ComposeError as error:
            assert re.match(rf"{directory}/compose\.yml:[0-9]+: ", str(error)), str(error)
