# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Observes our two nftables tables in the kernel, and replaces them in one transaction."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Sequence

from ... import store
from ...errors import ForeignError, HostError
from ...kernel import nftables
from ...kernel.program import SYSTEM_PATH, complaint, run
from ...plan import Operation
from ...site import Site
from ..common.model import owner_mark
from . import nft_delta

FAMILIES = ("inet", "bridge")
# Attempts to list rules without a transaction in between; the last attempt counts anyway.
LOOKS = 5
# Counter owners are ignored when rules are compared.
COUNTED = re.compile(r"(flags dynamic\n)\s*elements = \{[^}]*\}\n")
# Messages of nft about a missing table, and on kernels and in namespaces without tables.
_NO_TABLE = tuple(
    os.strerror(code) for code in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
)
MINIMUM_VERSION = (0, 9, 8)
_AGAIN = "find out why 'nft list tables' fails, then run again"
ELEMENTS = re.compile(r"elements = \{([^}]*)\}")


@dataclass(frozen=True)
class Tables:
    """``listed`` digests what the kernel holds ("" unless both tables are there);
    ``applied_text`` and ``applied_listing`` are the digests recorded when we last applied."""

    installed: bool
    present: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    listed: str = ""
    applied_text: str = ""
    applied_listing: str = ""

    def hold(self, text: str) -> bool:
        """Whether the kernel holds exactly the rules of ``text``."""
        unchanged = bool(self.listed) and self.listed == self.applied_listing
        return unchanged and self.applied_text == digest(text)


class Watched(NamedTuple):
    """Links that the launcher watches; it takes the bridges down when rules are missing."""

    bridges: Sequence[str]
    links: Sequence[str]


def tabbed(text: str) -> str:
    """The text with its indentation by tabs, as nft prints rules; ansible-test refuses tabs."""
    return re.sub("^(?: {4})+", lambda spaces: "\t" * (len(spaces[0]) // 4), text, flags=re.M)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def observe(site: Site) -> Tables:
    """Observe our tables; they are listed only if there was a transaction since we listed them."""
    program = _program()
    if program is None:
        return Tables(installed=False)
    record = store.read(_record_file(site)) or {}
    applied = {f"applied_{key}": record.get(key, "") for key in ("text", "listing")}
    if record.get("listing") and record.get("moment") == _moment():
        return Tables(True, FAMILIES, listed=record["listing"], **applied)
    present = _listings(program, site.nft_table)
    mark = f"chain {owner_mark(site)} {{"
    return Tables(
        installed=True,
        present=tuple(present),
        foreign=tuple(family for family, text in present.items() if mark not in text),
        listed=_listing_digest(present) if len(present) == len(FAMILIES) else "",
        **applied,
    )


def _moment() -> list[object]:
    """Boot, network namespace and transaction: equal ones mean equal rules."""
    return [store.boot_id(), os.stat("/proc/self/ns/net").st_ino, nftables.generation()]


def _listings(program: str, table: str) -> dict[str, str]:
    """Both tables as far as they exist. nft asks for their parts one by one, so a transaction in
    between would show some of the old rules and some of the new."""
    present: dict[str, str] = {}
    for dummy in range(LOOKS):
        before = nftables.generation()
        # Names of protocols and marks would come from files of the host, which may change.
        command = [program, "--stateless", "--numeric"]
        listings = {family: _listed(command, ["table", family, table]) for family in FAMILIES}
        present = {family: text for family, text in listings.items() if text is not None}
        if nftables.generation() == before:
            break
    return present


def require(site: Site, tables: Tables) -> None:
    """Raise when the program nft is missing, or another program has tables of our names."""
    if not tables.installed:
        raise HostError("the program nft was not found", hint="install the package nftables")
    if tables.foreign:
        raise ForeignError(
            f"the nftables table {tables.foreign[0]} {site.nft_table} was not made by sandlot",
            hint="rename or delete it; sandlot needs that name",
        )


def check_version() -> None:
    """HostError when nft does not know all that our rules need."""
    program = _program()
    if program is None:
        return
    # "nftables v1.0.6 (Lester Gooch #5)"
    match = re.search(r"v([0-9]+)\.([0-9]+)\.([0-9]+)", run([program, "--version"]).stdout)
    if match and tuple(map(int, match.groups())) < MINIMUM_VERSION:
        least = ".".join(map(str, MINIMUM_VERSION))
        raise HostError(
            f"{program} has version {match[0][1:]}, which does not know all rules",
            hint=f"install nftables {least} or later",
        )


def apply(site: Site, text: str, watched: Watched) -> None:
    """Bring both tables to ``text`` and record what the kernel made of them."""
    tables = observe(site)
    require(site, tables)
    # The digests tell later whether the kernel still has these rules.
    before = in_force(site, tables)
    script = nft_delta.script(before, text) if before else None
    if script is None:
        # A replacement, whether or not the tables exist.
        verbs = [f"{verb} table {family}" for family in FAMILIES for verb in ("add", "delete")]
        script = "".join(f"{words} {site.nft_table}\n" for words in verbs) + text
    with announced(site, watched):
        _transaction(script)
    os.makedirs(site.run, mode=0o700, exist_ok=True)
    store.replace(_text_file(site), text.encode(), mode=0o600)
    moment = _moment()
    record: dict[str, object] = {"text": digest(text), "listing": observe(site).listed}
    if moment == _moment():
        record["moment"] = moment
    store.write(_record_file(site), record, durable=False)


def in_force(site: Site, tables: Tables) -> str:
    """The text of our rules as we last applied them; "" when the kernel has others now."""
    path = _text_file(site)
    content = store.read_bytes(path, hint=f"remove {path}; the next run makes it again") or b""
    text = content.decode("utf-8", "replace")
    return text if tables.hold(text) else ""


@contextlib.contextmanager
def announced(site: Site, watched: Watched | None = None) -> Iterator[None]:
    """Record the number of our own transaction for the launcher; inside the writer lock.

    The launcher takes the bridges down after any other transaction. Without ``watched``, it goes
    on with the same links.
    """
    before = nftables.generation()
    yield
    after = nftables.generation()
    record = dict(store.read(site.watched) or {"bridges": [], "links": []})
    if watched is not None:
        record["bridges"] = list(watched.bridges)
        record["links"] = [*watched.bridges, *watched.links]
    # 0, never a number, when another transaction came in between.
    record["generation"] = after if after == before + 1 else 0
    os.makedirs(site.run, mode=0o700, exist_ok=True)
    store.write(site.watched, {**record, "table": site.nft_table}, durable=False)


def remove(site: Site) -> None:
    """Delete our tables; foreign ones of that name stay."""
    tables = observe(site)
    ours = [family for family in tables.present if family not in tables.foreign]
    if ours:
        _transaction("".join(f"delete table {family} {site.nft_table}\n" for family in ours))
    store.remove(_record_file(site))
    store.remove(_text_file(site))
    store.remove(site.watched)


def remove_operations(site: Site, tables: Tables) -> list[Operation]:
    if tables.applied_text and not tables.installed:
        require(site, tables)
    if not set(tables.present) - set(tables.foreign):
        return []
    summary = f"delete nftables rules in table {site.nft_table}"
    return [Operation("network", summary, lambda: remove(site))]


def _record_file(site: Site) -> str:
    # A dot, as the directories of sandboxes are here too and their names never begin with one.
    return f"{site.run}/.rules.json"


def _text_file(site: Site) -> str:
    return f"{site.run}/.rules.nft"


def _program() -> str | None:
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def chain(table: str, name: str) -> str:
    """The text of a chain, "" if it does not exist."""
    program = _program()
    if program is None:
        return ""
    return _listed([program], ["chain", "inet", table, name]) or ""


def _listed(command: list[str], words: list[str]) -> str | None:
    """The output of "nft list", None when the object does not exist."""
    result = run([*command, "list", *words])
    if result.returncode and not any(word in result.stderr for word in _NO_TABLE):
        problem = f"the nftables {' '.join(words)} can't be listed: {complaint(result)}"
        raise HostError(problem, hint=_AGAIN)
    return result.stdout if result.returncode == 0 else None


def _listing_digest(listings: dict[str, str]) -> str:
    """nft promises no order of the elements of a set."""
    texts = [COUNTED.sub(r"\1", listings[family]) for family in FAMILIES]

    def ordered(match: re.Match[str]) -> str:
        return ",".join(sorted(element.strip() for element in match[1].split(",")))

    return digest("".join(ELEMENTS.sub(ordered, text) for text in texts))


def _transaction(text: str) -> None:
    nft = _program()
    if nft is None:
        raise HostError("the program nft was not found", hint="install the package nftables")
    result = run([nft, "-f", "-"], text=text)
    if result.returncode:
        raise HostError(
            f"nft refused the rules: {complaint(result)}",
            hint="unless the text above tells why: the kernel needs nf_tables with nat, fib and "
            "bridge support",
        )
