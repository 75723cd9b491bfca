# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Source "oci": images from registries, OCI layouts and docker save archives.

skopeo speaks the registries' protocol and reads the archives' formats. Its output is verified
again, digest by digest, and unpacked by a confined process.
"""

from __future__ import annotations

from .source import SOURCE

__all__ = ["SOURCE"]
