# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: plain Python and its standard library; pyroute2 only where links change."""

__version__ = "0.1.0"

# A zip importer has an archive: this is a module's payload.
_archive = getattr(__spec__.loader, "archive", None)
if _archive is not None:
    from .handover import search_path

    __path__ = search_path(_archive) or __path__
