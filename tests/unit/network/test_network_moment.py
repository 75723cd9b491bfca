# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers

from __future__ import annotations

import pytest
from sandlot import store
from sandlot.network import allocate
from sandlot.network.bridge import nft, rules
from sandlot.network.bridge.forwarding import Forwarding
from sandlot.network.bridge.observe import BridgeState
from sandlot.network.common import declare
from sandlot.network.common.desired import Desired
from sandlot.site import Site
from sandlot.spec.values import Attachment


@pytest.fixture
def listings(tmp_path, monkeypatch):
    """Calls of nft, for a host whose rules this version has applied in transaction 7."""
    site, calls = Site(str(tmp_path)), []
    (tmp_path / "run/sandlot").mkdir(parents=True)

    def listed(command, words):
        calls.append(words)
        return f"chain {nft.owner_mark(site)} {{\n"

    monkeypatch.setattr(nft, "_program", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(nft, "_listed", listed)
    monkeypatch.setattr(nft, "_transaction", lambda text: None)
    monkeypatch.setattr(nft.nftables, "generation", lambda: 7)
    nft.apply(site, "rules", nft.Watched((), ()))
    calls.clear()
    return site, calls


def test_unchanged_rules_are_not_listed(listings):
    site, calls = listings
    assert nft.observe(site).hold("rules")
    assert not calls


def test_rules_are_listed_after_a_transaction(listings, monkeypatch):
    site, calls = listings
    monkeypatch.setattr(nft.nftables, "generation", lambda: 8)
    assert nft.observe(site).hold("rules")
    assert len(calls) == 2


def test_rules_are_listed_after_a_boot(listings, monkeypatch):
    site, calls = listings
    monkeypatch.setattr(store, "boot_id", lambda: "another")
    nft.observe(site)
    assert len(calls) == 2


def test_a_record_of_an_earlier_version_has_no_moment(listings):
    site, calls = listings
    path = f"{site.run}/.rules.json"
    known = store.read(path)
    store.write(path, {key: known[key] for key in ("text", "listing")})
    assert nft.observe(site).hold("rules")
    assert len(calls) == 2


def test_rules_hold_only_with_all_that_a_sandbox_needs_and_in_the_kernel(listings, monkeypatch):
    """A restart looks at all of the host when they do not."""
    site, _calls = listings
    networks = declare.normalise(site, [{"name": "default"}])
    found = allocate(site, networks, {name: [Attachment("default")] for name in "abc"}, {})
    off = Forwarding(enabled=True, prior=None)
    everyone = [item for name in "ab" for item in found[name]]
    nft.apply(site, rules.render(site, networks, everyone, [], guarded=[]), nft.Watched((), ()))

    def hold(name):
        state = BridgeState(site, {}, {}, (), {}, off, nft.observe(site))
        return rules.hold(site, Desired(networks, found[name]), state)

    assert hold("a") and hold("b") and not hold("c")
    monkeypatch.setattr(nft.nftables, "generation", lambda: 9)
    assert hold("a")
    monkeypatch.setattr(nft, "_listed", lambda command, words: None)
    assert not hold("a")
