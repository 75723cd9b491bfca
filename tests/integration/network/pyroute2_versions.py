# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Run by a test with one version of pyroute2 first in the path: everything the adapter does."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import pyroute2
from lab import Lab, call, ip, run
from sandlot.network import Rates
from sandlot.network.bridge import adapter

# Of the context and of requests; everything else that is public changes something.
ASIDE = {"close", "send"}


def operations():
    """The class that has each of them."""
    classes = (adapter.Changes, adapter.Links, adapter.Batch)
    found = {name: each for each in classes for name in vars(each) if not name.startswith("_")}
    return {name: each for name, each in found.items() if name not in ASIDE}


def noted(lab, function):
    """What ``function`` returns, run in the host's namespace, and the operations it used."""

    def inside():
        used = set()
        for name, each in operations().items():
            setattr(each, name, _noting(used, name, getattr(each, name)))
        return function(), used

    return call(lab.host, inside)


def _noting(used, name, method):
    @functools.wraps(method)
    def wrapper(*arguments, **keywords):
        used.add(name)
        return method(*arguments, **keywords)

    return wrapper


def converged(lab, used):
    _, more = noted(lab, lab.apply)
    used |= more
    assert lab.plan() == []


def main(version):
    assert pyroute2.__version__ == version, pyroute2.__version__
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        try:
            missing = operations().keys() - exercise(lab)
        finally:
            lab.close()
    assert not missing, f"never called: {missing}"


def exercise(lab):
    used = set()
    before = lab.fingerprint()
    lab.networks[0]["mtu"] = 1400
    lab.add("a", "b")
    lab.rates["a"] = Rates(10**6, 10**6)
    converged(lab, used)
    link, bridge = lab.sandboxes["a"][0].link, lab.paths.bridge("default")
    assert "mtu 1400" in run(lab.host, "ip", "link", "show", link)
    assert "hairpin on" in run(lab.host, "bridge", "-d", "link", "show", "dev", link)
    assert "via 10.77.0.1" in run(lab.pin("a"), "ip", "route")
    assert "rate 1Mbit" in run(lab.host, "tc", "qdisc", "show", "dev", link)
    ip(lab.host, "address", "add", "10.99.0.1/24", "dev", bridge)
    ip(lab.pin("a"), "address", "add", "10.77.3.3/22", "dev", "eth0")
    ip(lab.pin("a"), "route", "add", "default", "dev", "eth0", "metric", "50")
    ip(lab.pin("b"), "route", "flush", "dev", "eth0")
    converged(lab, used)
    lab.rates.clear()
    converged(lab, used)
    lab.rates["b"] = Rates(egress=10**6)
    ip(lab.host, "link", "del", lab.sandboxes["b"][0].link)
    converged(lab, used)
    _, more = noted(lab, lab.remove)
    left = [line for line in lab.fingerprint() if line not in before]
    assert lab.fingerprint() == before, left
    return used | more


if __name__ == "__main__":
    main(sys.argv[1])
