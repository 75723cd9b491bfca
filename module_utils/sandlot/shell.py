# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The frame of every module around its one call into the engine."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, NoReturn, Protocol

from .errors import SandlotError
from .kernel import signals
from .oserrors import explained
from .site import Site

Json = Dict[str, Any]


class Module(Protocol):
    """The part of AnsibleModule that the engine uses."""

    params: Mapping[str, Any]
    check_mode: bool

    def exit_json(self, **kwargs: Any) -> NoReturn: ...

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn: ...

    def warn(self, warning: str) -> None: ...


Action = Callable[[Module, Site], Json]


def run(module: Module, action: Action) -> NoReturn:
    """Exit with the result of ``action``; explain an error as the module's failure.

    ``failed`` in the result maps items to messages: the other items succeeded, but the module
    fails. Ansible shows ``warnings``.
    """
    signals.reset()
    try:
        site = Site.from_environment()
        site.require_root("set become: true")
        result = action(module, site)
    except SandlotError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=str(explained(error)))
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    failed = result.pop("failed", {})
    if failed:
        text = "; ".join(f"{name}: {message}" for name, message in sorted(failed.items()))
        module.fail_json(msg=text, failed_items=failed, **result)
    module.exit_json(**result)
