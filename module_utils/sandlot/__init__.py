# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The sandlot engine: Python's standard library, and pyroute2 where links change."""

import sys

__version__ = "0.1.0"
MINIMUM_PYTHON = (3, 9)

# Only a zip importer has an archive: then the engine runs from a module's payload.
_archive = getattr(__spec__.loader, "archive", None)
if _archive is not None:
    from .handover import refuse_python, search_path

    if sys.version_info < MINIMUM_PYTHON:
        refuse_python(MINIMUM_PYTHON)
    __path__ = search_path(_archive) or __path__
