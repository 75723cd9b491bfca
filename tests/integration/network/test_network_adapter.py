# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""The one place that knows pyroute2: which versions it works with, and how sparing it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import isolation
import pytest
from lab import call, ip
from sandlot import network
from sandlot.errors import HostError
from sandlot.network import Rates
from sandlot.network.bridge import adapter, nft
from sandlot.plan import apply_all

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
# The first of Debian 12, the last before asyncio, and the newest.
VERSIONS = ("0.7.2", "0.7.12", "0.8.1", "0.9.7")


def cached(version):
    """A directory with that version of pyroute2, made once and kept outside of the tree."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandlot-tests"
    there = cache / f"pyroute2-{version}"
    if not there.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = tempfile.mkdtemp(dir=cache)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        with isolation.outside():
            subprocess.run([*command, fresh, f"pyroute2=={version}"], check=True)
        try:
            os.rename(fresh, there)
        except OSError:
            # Another run was faster.
            shutil.rmtree(fresh)
    return there


@pytest.mark.parametrize("version", VERSIONS)
def test_every_operation_with_each_version_of_pyroute2(version):
    path = [str(cached(version)), str(ROOT / "module_utils"), str(HERE)]
    done = subprocess.run(
        [sys.executable, str(HERE / "pyroute2_versions.py"), version],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", ["0.5.14", "0.6.13"])
def test_an_old_pyroute2_is_refused_before_any_change(lab, monkeypatch, version):
    lab.add("a")
    before = lab.fingerprint()
    with monkeypatch.context() as old:
        old.setattr(adapter, "_version", lambda: version)
        with pytest.raises(
            HostError, match=f"pyroute2 {version} is too old: .* 0.7 or later; pip "
        ):
            lab.converge()
    assert lab.fingerprint() == before and lab.plan()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", ""), ("0.7", ""), ("0.7.2", ""), ("0.9.7.post1", ""), ("1.0", ""), ("0.6", "too old")],
)
def test_versions_of_pyroute2(text, wanted):
    try:
        adapter.check_version(text, "python3")
        refused = ""
    except HostError as error:
        refused = str(error)
    assert bool(refused) == bool(wanted) and wanted in refused


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("nftables v0.9.3 (Topsy)", True),
        ("nftables v0.9.8 (E.D.S.)", False),
        ("nftables v1.0.6 (Lester Gooch #5)", False),
        ("some other text", False),
    ],
)
def test_an_old_nft_is_refused_before_any_change(lab, tmp_path, monkeypatch, answer, refused):
    lab.add("a")
    before = lab.fingerprint()
    program = tmp_path / "nft"
    real = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    version = f'[ "$1" = --version ] && echo "{answer}" && exit'
    program.write_text(f'#!/bin/sh\n{version}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(nft, "_program", lambda: str(program))
    if refused:
        with pytest.raises(HostError, match="version 0.9.3, .*; install nftables 0.9.8 or later"):
            lab.converge()
        assert lab.fingerprint() == before
    else:
        assert lab.converge()


@pytest.mark.parametrize("count", [1, 12])
def test_one_session_and_one_transaction_whatever_the_number(lab, monkeypatch, count):
    names = [f"s{number}" for number in range(count)]
    lab.add(*names)
    lab.rates.update({name: Rates(10**6, 10**6) for name in names})

    def counted():
        import pyroute2

        opened, transactions = [], []
        connection, transaction = pyroute2.IPRoute, nft._transaction
        monkeypatch.setattr(pyroute2, "IPRoute", lambda: opened.append(1) or connection())
        monkeypatch.setattr(nft, "_transaction", lambda x: transactions.append(1) or transaction(x))
        operations = lab.operations()
        # Whether the kernel can limit bandwidth is tried once, in a process of its own.
        assert opened == transactions == []
        with network.session():
            apply_all(operations)
        return len(opened), len(transactions)

    assert call(lab.host, counted) == (1, 1)
    assert lab.plan() == []


@pytest.mark.parametrize("changed", [False, True])
def test_pyroute2_is_imported_when_a_bridge_changes_only(lab, changed):
    lab.add("a")
    lab.converge()
    # The links of sandboxes do without it.
    ip(lab.host, "link", "del", lab.sandboxes["a"][0].link)
    if changed:
        ip(lab.host, "link", "del", lab.paths.bridge("default"))

    def imported():
        for name in [name for name in sys.modules if name.partition(".")[0] == "pyroute2"]:
            del sys.modules[name]
        operations = lab.operations()
        with network.session():
            apply_all(operations)
        return "pyroute2" in sys.modules

    assert call(lab.host, imported) is changed


def test_a_refusal_in_a_batch_says_which_change_it_was(lab):
    lab.add("a")
    lab.converge()

    def refused():
        with adapter.batched() as batch:
            batch.set_link("lo", state="up")
            batch.set_default_route("lo", "203.0.113.1")

    with pytest.raises(HostError, match="default route via 203.0.113.1: Network is unreachable"):
        call(lab.pin("a"), refused)
