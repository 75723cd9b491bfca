# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The result of a command as ansible.builtin.command has it."""

from __future__ import annotations

import datetime
from typing import Any, Dict, NoReturn, Optional, Tuple

from .. import shell

NOT_RUN = "Command would have run if not in check mode"


def texts(stdout: bytes, stderr: bytes, *, strip: bool = True) -> Dict[str, Any]:
    """Both outputs as text; from ansible-core 2.19 on, a result has to be UTF-8."""
    result: Dict[str, Any] = {}
    for name, data in (("stdout", stdout), ("stderr", stderr)):
        text = data.decode("utf-8", "replace")
        text = text.rstrip("\r\n") if strip else text
        result.update({name: text, f"{name}_lines": text.splitlines()})
    return result


def times(moments: Optional[Tuple[float, float]]) -> Dict[str, Optional[str]]:
    """The begin and the end of a command that ran, seconds since 1970."""
    if moments is None:
        return {"start": None, "end": None, "delta": None}
    start, end = map(datetime.datetime.fromtimestamp, moments)
    return {"start": str(start), "end": str(end), "delta": str(end - start)}


def skip(module: shell.Module) -> NoReturn:
    """End a check: what a command would do is unknown."""
    module.exit_json(changed=False, skipped=True, rc=0, msg=NOT_RUN)


def finish(module: shell.Module, result: Dict[str, Any], problem: str = "") -> Dict[str, Any]:
    """The result of a command; another exit code than 0 is a failure."""
    if problem or result["rc"]:
        module.fail_json(**{**result, "msg": problem or "non-zero return code"})
    return result
