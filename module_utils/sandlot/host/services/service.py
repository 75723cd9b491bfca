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
    # Directory or file, below the root, that only one row writes at a time.
    place: ClassVar[str]
    # The service, in messages, and what enables it by hand.
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
        """Files by path, with their content and mode."""

    @abc.abstractmethod
    def enabled(self) -> bool:
        """Whether every boot starts the service."""

    @abc.abstractmethod
    def enable(self) -> None: ...

    @abc.abstractmethod
    def reload(self) -> None:
        """Tell the manager of changed texts; the service counts as started from then on."""

    @abc.abstractmethod
    def needs_keeping(self, *, changed: bool) -> bool:
        """Whether ``keep`` is due; ``changed`` texts are."""

    @abc.abstractmethod
    def keep(self) -> None:
        """Keep a launcher as after a boot; sandboxes are left to the run that asks."""

    @abc.abstractmethod
    def traces(self) -> list[str]:
        """The parts that are left on the host, as messages name them."""

    @abc.abstractmethod
    def remove(self) -> None: ...
