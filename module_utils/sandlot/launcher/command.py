# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""How to start a launcher of the installed runtime; apart, so that its callers import little."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from ..site import Site


def command(site: Site, python: str) -> List[str]:
    code = (
        f"import sys; sys.path.insert(0, {site.lib!r}); "
        "from sandlot.launcher.zygote import main; main(sys.argv[1])"
    )
    # UTF-8 whatever the host's locale, so that arguments keep their bytes.
    return [python, "-ISE", "-X", "utf8", "-c", code, site.root or "/"]


def repair_command(site: Site, python: str) -> List[str]:
    """`sandlot repair`; site packages are where pyroute2 is."""
    code = (
        f"import sys; sys.path.insert(0, {site.lib!r}); "
        "from sandlot.cli.main import main; sys.exit(main(['repair']))"
    )
    return [python, "-I", "-X", "utf8", "-c", code]
