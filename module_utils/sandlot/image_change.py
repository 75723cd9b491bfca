# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The option ``on_image_change``: above another image, a sandbox keeps its layer or gets another.

`sandlot list` has to start fast, so this module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional

OPTION = "on_image_change"
KEEP, FRESH = "keep", "fresh"
CHOICES = (KEEP, FRESH)


def chosen(own: Optional[str], config: Mapping[str, Any]) -> str:
    """The choice of a sandbox: its own option, or the default that came with its layer."""
    return str(own or config.get(OPTION) or KEEP)


def plain(image: str) -> str:
    """The name of an image without a pinned digest."""
    return image.partition("@")[0]
