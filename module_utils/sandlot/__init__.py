# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: Python's standard library, and pyroute2 where links change."""

__version__ = "0.1.0"

# Only a zip importer has an archive: then the engine runs from a module's payload.
_archive = getattr(__spec__.loader, "archive", None)
if _archive is not None:
    from .handover import search_path

    __path__ = search_path(_archive) or __path__
