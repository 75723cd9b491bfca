# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Makes the engine importable as `sandlot`, as it is on hosts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "module_utils"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
