# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What every module does around its one call into the engine."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Mapping, NoReturn, Protocol

from .errors import HostError, SandlotError
from .oserrors import explained
from .site import Site

Json = Dict[str, Any]


class Module(Protocol):
    """The part of AnsibleModule that is used."""

    params: Mapping[str, Any]
    check_mode: bool

    def exit_json(self, **kwargs: Any) -> NoReturn: ...

    def fail_json(self, msg: str, **kwargs: Any) -> NoReturn: ...

    def warn(self, warning: str) -> None: ...


Action = Callable[[Module, Site], Json]


def run(module: Module, action: Action, *, root: bool = True) -> NoReturn:
    """Exit with what ``action`` returns; an error is the module's failure, and explained.

    ``failed`` in the result maps items to messages: the others went on, the module fails after.
    ``warnings`` are Ansible's to show.
    """
    try:
        if root and os.geteuid() != 0:
            raise HostError("only root can manage sandboxes", hint="set become: true")
        result = action(module, Site.from_environment())
    except SandlotError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=str(explained(error)))
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    failed = result.pop("failed", {})
    if failed:
        told = "; ".join(f"{name}: {message}" for name, message in sorted(failed.items()))
        module.fail_json(msg=told, failed_items=failed, **result)
    module.exit_json(**result)
