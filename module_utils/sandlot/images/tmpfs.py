# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "tmpfs": a root whose writable layer is in memory, fresh at each start."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from ..spec.names import image_name
from ..spec.option import Option
from ..spec.quantities import size
from ..spec.text import refusal, text
from . import busybox
from .model import Source

DEFAULT_SIZE = 64 << 20
_MODE = re.compile(r"0?[0-7]{3,4}")


def _mode(option: str, value: Any) -> str:
    mode = text(option, value)
    if not _MODE.fullmatch(mode):
        raise refusal(option, value, "is no mode", hint='write it in quotes and octal, as "0755"')
    return f"{int(mode, 8):04o}"


SOURCE = Source(
    description="an ephemeral root: an image below a writable layer in memory",
    digest=busybox.digest,
    build=busybox.build,
    tmpfs=lambda spec: f"size={spec.get('size')},mode={spec.get('mode')}",
    options=(
        Option(
            "size",
            "str",
            partial(size, minimum=64 << 10),
            [
                "Most bytes of the layer in memory. They count as the sandbox's memory; what "
                "was written is gone when the sandbox stops.",
            ],
            numeric=True,
            default=DEFAULT_SIZE,
        ),
        Option("mode", "str", _mode, ["Mode of the root directory, octal."], default="0755"),
        Option(
            "base",
            "str",
            image_name,
            [
                "Image below the layer, of this list or of the host. Without it, what source "
                "V(busybox) makes.",
            ],
        ),
    ),
)
