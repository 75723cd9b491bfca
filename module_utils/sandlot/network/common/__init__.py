# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Everything about networks that no back end decides: names, addresses, ports, policies."""
