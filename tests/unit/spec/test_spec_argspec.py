# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What Ansible is told about the options, checked by Ansible itself."""

from __future__ import annotations

from typing import Any, Iterable, Iterator

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from sandlot import images
from sandlot.errors import SpecError
from sandlot.spec import (
    OPTIONS,
    argument_spec,
    normalise,
    options_documentation,
)
from sandlot.spec.option import Option
from sandlot.spec.table import networks
from spec_cases import BASE, label, raw, rows, spec

TYPES = {"str", "int", "float", "bool", "list", "dict", "raw"}


def validated(parameters: dict[str, Any]) -> Any:
    """As the sandboxes module gets it: an element of a list of sandboxes."""
    spec = {"sandboxes": {"type": "list", "elements": "dict", "options": argument_spec()}}
    return ArgumentSpecValidator(spec).validate({"sandboxes": [parameters]})


def test_a_value_not_given_stays_none() -> None:
    result = validated(BASE)
    assert result.error_messages == []
    (parameters,) = result.validated_parameters["sandboxes"]
    assert {key: value for key, value in parameters.items() if value is not None} == BASE
    assert normalise(parameters) == normalise(BASE)


@pytest.mark.parametrize("option, value, expected", rows("good"), ids=label)
def test_ansible_passes_what_the_engine_takes(option: str, value: Any, expected: Any) -> None:
    result = validated(raw(option, value))
    assert result.error_messages == []
    (parameters,) = result.validated_parameters["sandboxes"]
    assert spec(parameters) == spec(raw(option, value))


def is_countable(value: Any) -> bool:
    """Ansible can't convert infinity to an integer, nor such an integer to a float."""
    return not isinstance(value, (int, float)) or abs(value) < 1e300


JUDGED = [row for row in rows("bad") if is_countable(row[1])]


@pytest.mark.parametrize("option, value, says", JUDGED, ids=label)
def test_what_ansible_passes_the_engine_judges(option: str, value: Any, says: str) -> None:
    """Ansible may convert or refuse; whatever it lets through gives a Spec or a SpecError."""
    result = validated(raw(option, value))
    if result.error_messages:
        return
    (parameters,) = result.validated_parameters["sandboxes"]
    try:
        normalise(parameters)
    except SpecError as error:
        assert error.hint


def test_unknown_suboption_is_named_by_ansible() -> None:
    result = validated({**BASE, "networks": [{"name": "a", "ipv6_prefix": "::1"}]})
    assert "ipv6_prefix" in result.error_messages[0]


def test_documentation_and_argument_spec_agree() -> None:
    assert list(options_documentation()) == list(argument_spec()) == [x.name for x in OPTIONS]
    agree(options_documentation(), argument_spec())


def agree(documentation: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert documentation.keys() == arguments.keys()
    for name, row in documentation.items():
        described = {key: value for key, value in row.items() if key != "description"}
        if "suboptions" in described:
            suboptions = described.pop("suboptions")
            if row["type"] == "list":
                agree(suboptions, arguments[name]["options"])
        others = ("no_log", "options")
        known = {key: value for key, value in arguments[name].items() if key not in others}
        assert described == known
        assert row["type"] in TYPES
        assert all(text.endswith((".", ")")) and len(text) < 200 for text in row["description"])


def test_ansible_hides_no_value_of_a_secret_option_by_itself() -> None:
    """Its no_log would also take the value out of names, and of all other results."""
    rows = {**argument_spec(), **argument_spec()["secrets"]["options"]}
    assert [name for name, row in rows.items() if row.get("no_log")] == []
    explicit = {name for name, row in rows.items() if row.get("no_log") is False}
    assert explicit == {"env", "files", "secrets", "value"}


def every_row(options: Iterable[Option]) -> Iterator[Option]:
    for row in options:
        yield row
        yield from every_row(row.suboptions)


def test_a_list_has_a_type_of_its_elements() -> None:
    of_images = [row for source in images.SOURCES.values() for row in source.options]
    rows = list(every_row((*OPTIONS, *networks.OPTIONS, *images.options(), *of_images)))
    assert len(rows) > 100
    assert [row.name for row in rows if (row.type == "list") != bool(row.elements)] == []


def test_documentation_survives_yaml() -> None:
    documentation = options_documentation()
    assert yaml.safe_load(yaml.safe_dump(documentation, sort_keys=False)) == documentation


def test_defaults_are_described() -> None:
    text = " ".join(options_documentation()["pids_limit"]["description"])
    assert "V(2048)" in text
    text = " ".join(options_documentation()["read_only"]["description"])
    assert "V(false)" in text


def test_rows_are_copied_like_plain_mappings() -> None:
    """ansible-test makes an empty one of a row's own class."""
    for row in argument_spec().values():
        assert type(row)() == {} and {**row} == row
