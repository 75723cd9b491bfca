# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The interface of a service manager's row."""

from __future__ import annotations

import abc
from typing import ClassVar, Dict, Tuple

from ...site import Site

Texts = Dict[str, Tuple[str, int]]


class Service(abc.ABC):
    """The service of sandlot in one service manager of a host."""

    kind: ClassVar[str]
    # The directory or file, below the root, that holds the service; one service at a time uses it.
    place: ClassVar[str]
    # The name of the service in messages, and the command that enables it.
    label: ClassVar[str]
    remedy: ClassVar[str] = "run the role or module sandbox_host"

    def __init__(self, site: Site) -> None:
        self.site = site

    @classmethod
    @abc.abstractmethod
    def is_present(cls, site: Site) -> bool:
        """Whether the host runs this service manager."""

    @abc.abstractmethod
    def texts(self) -> Texts:
        """The files of the service by path, with content and mode."""

    @abc.abstractmethod
    def enabled(self) -> bool:
        """Whether every boot starts the service."""

    @abc.abstractmethod
    def enable(self) -> None:
        """Have every boot start the service."""

    @abc.abstractmethod
    def reload(self) -> None:
        """Tell the manager of changed files; from then on, the service counts as started."""

    @abc.abstractmethod
    def needs_keeping(self, *, changed: bool) -> bool:
        """Whether ``keep`` has to run; ``changed`` tells whether files of the service changed."""

    @abc.abstractmethod
    def keep(self) -> None:
        """Start keeping a launcher, as after a boot; the calling run starts the sandboxes."""

    @abc.abstractmethod
    def traces(self) -> list[str]:
        """The parts of the service that exist on the host, as messages name them."""

    @abc.abstractmethod
    def remove(self) -> None:
        """Remove the service from the host."""
