# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Functions of ansible-core 2.19 for older versions as well."""

from __future__ import annotations

from typing import Any

try:
    from ansible.template import trust_as_template
except ImportError:
    # Every text is a template, and one that looks like data becomes data.
    AS_TEXT: dict[str, Any] = {"convert_data": False}

    def trust_as_template(text: str) -> str:
        return text
else:
    AS_TEXT = {}

__all__ = ["AS_TEXT", "text_of", "trust_as_template"]


def text_of(loader: Any, path: str, encoding: str = "utf-8") -> str:
    """The text of a file of the controller, decrypted if it is a vault."""
    try:
        return str(loader.get_text_file_contents(path, encoding=encoding))
    except AttributeError:
        content, dummy = loader._get_file_contents(path)
        return str(content.decode(encoding))
