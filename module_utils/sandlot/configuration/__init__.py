# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Contents of files and secrets, and secret values of variables."""
