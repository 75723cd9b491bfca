# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Snapshots: kept layers of sandboxes, and copies of volumes that belong to them."""
