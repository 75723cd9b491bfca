# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The options of jobs are options of sandboxes."""

from __future__ import annotations

from sandlot.cli import job_options
from sandlot.jobs import options
from sandlot.spec.options import BY_NAME


def test_each_option_is_one_of_a_sandbox() -> None:
    assert set(options.NAMES) <= set(BY_NAME)
    named = [row.option for row in job_options.OPTIONS]
    assert len(named) == len(set(named)) and set(named) <= set(options.NAMES)


def test_options_take_text_as_the_table_has_them() -> None:
    for row in job_options.OPTIONS:
        kind = BY_NAME[row.option].type
        action = {"list": "append", "bool": "store_true"}.get(kind)
        # A command line has one string that is split, as that of a Dockerfile.
        assert row.settings.get("action") == action or row.option == "entrypoint", row.option


def test_names_are_those_of_the_options() -> None:
    """As in podman run, where many differ from those of the table in their number only."""
    others = {"working_dir", "network_mode", "capabilities", "tmpfs"}
    for row in job_options.OPTIONS:
        long = row.names[-1]
        if row.option not in others:
            assert f"--{row.option.replace('_', '-')}".rstrip("s") == long.rstrip("s")
