# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Refuses variables that facts may have set, as a module chooses its facts where it runs.

Ansible lets facts win over the inventory (inject_facts_as_vars), and gives those of a delegated
task to the host of the play. It drops facts with names of connection options, but of plugins in
collections it knows none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError

_DROPPED = {*C.COMMON_CONNECTION_VARS, *chain.from_iterable(C.MAGIC_VARIABLE_MAPPING.values())}
_BUILTIN = ("ansible.builtin.", "ansible.legacy.")


def refuse(variables: Mapping[str, Any], names: Iterable[str], whose: str, plugin: str) -> None:
    """Refuse each of these variables that has the name of a fact.

    ``plugin`` is the connection plugin that reads them, ``whose`` says where facts come from.
    """
    if not C.INJECT_FACTS_AS_VARS:
        return
    facts = variables.get("ansible_facts")
    if not isinstance(facts, Mapping):
        return
    for name in names:
        # A fact NAME hides a fact ansible_NAME in ansible_facts, so no value tells which one it is.
        known = name in variables and name.removeprefix("ansible_") in facts
        if known and not _is_dropped(name, plugin):
            raise AnsibleError(
                f"{name} is a fact {whose}, which could lead tasks elsewhere; "
                "drop it (meta: clear_facts), and do not trust what runs there"
            )


def _is_dropped(name: str, plugin: str) -> bool:
    """Whether Ansible makes no variable of such a fact."""
    for prefix in _BUILTIN:
        plugin = plugin.removeprefix(prefix)
    known = "." not in plugin and name.startswith(f"ansible_{plugin}_")
    return known or name in _DROPPED or name.startswith("ansible_become_")
