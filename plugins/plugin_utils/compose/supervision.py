# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Restarts, health, stops, logs and the order of starts of a service."""

from __future__ import annotations

import re

from ...module_utils.sandlot.errors import SpecError
from ...module_utils.sandlot.spec import quantities
from .model import Json, Service
from .nodes import Node
from .values import boolean, duration, integer, known, mapping, nanoseconds, sequence, size, text

_POLICY = re.compile(r"(no|always|unless-stopped|on-failure)(?::([0-9]{1,9}))?")
_DEPLOY_POLICY = {"none": "no", "on-failure": "on-failure", "any": "always"}
_HEALTH = ("test", "interval", "timeout", "retries", "start_period", "start_interval", "disable")
_DEPLOY = (
    *("mode", "replicas", "resources", "restart_policy", "labels", "endpoint_mode"),
    *("placement", "update_config", "rollback_config"),
)
_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "completed",
}
_DRIVERS = ("json-file", "local", "journald", "default")


def restart(service: Service) -> None:
    """The policy; Compose's default is that nothing is started again."""
    node, deploy = service.get("restart"), service.get("deploy")
    given = known(deploy, _DEPLOY, "deploy") if deploy else {}
    for key in ("endpoint_mode", "placement", "update_config", "rollback_config", "labels"):
        if key in given:
            service.warn(given[key], "is left out: it is for swarms")
    if "restart_policy" in given:
        _deploy_policy(service, given["restart_policy"])
        return
    policy, retries = "no", None
    if node:
        word = "no" if node.value is False else text(node)
        match = _POLICY.fullmatch(word)
        if not match or (match[2] and match[1] != "on-failure"):
            hint = 'use "no", always, unless-stopped, on-failure or on-failure:N'
            raise node.error("is no restart policy", hint)
        policy, retries = match[1], match[2]
    service.sandbox.set("restart_policy", policy, node or service.node)
    if retries and node:
        service.sandbox.set("restart_retries", int(retries), node)


def _deploy_policy(service: Service, node: Node) -> None:
    given = known(node, ("condition", "delay", "max_attempts", "window"), "restart_policy")
    condition = text(given["condition"]) if "condition" in given else "any"
    if condition not in _DEPLOY_POLICY:
        hint = f"use {', '.join(_DEPLOY_POLICY)}"
        raise given["condition"].error("is no condition of restarts", hint)
    service.sandbox.set("restart_policy", _DEPLOY_POLICY[condition], given.get("condition", node))
    if "max_attempts" in given:
        if condition == "on-failure":
            service.sandbox.set(
                "restart_retries", integer(given["max_attempts"]), given["max_attempts"]
            )
        elif condition == "any":
            problem = "is left out: retries are counted with condition: on-failure only"
            service.warn(given["max_attempts"], problem)
    for key in ("delay", "window"):
        if key in given:
            service.warn(given[key], "is left out: sandlot's pauses between restarts grow")


def health(service: Service) -> None:
    node = service.get("healthcheck")
    if not node:
        return
    given = known(node, _HEALTH, "healthcheck")
    if "disable" in given and boolean(given["disable"]):
        service.sandbox.set("healthcheck", {"test": ["NONE"]}, node)
        return
    if "test" not in given:
        service.warn(node, "has no test, so the image's healthcheck stays as it is")
        return
    test = given["test"]
    entry: Json = {"test": test.value if isinstance(test.value, str) else _words(test)}
    service.sandbox.put("healthcheck", "test", entry["test"], test)
    for key in ("interval", "timeout", "start_period"):
        # Docker reads zero as its default.
        if key in given and nanoseconds(given[key]):
            service.sandbox.put("healthcheck", key, duration(given[key]), given[key])
    if "retries" in given and integer(given["retries"]):
        service.sandbox.put("healthcheck", "retries", integer(given["retries"]), given["retries"])


def _words(node: Node) -> list[str]:
    return [text(item) for item in sequence(node)]


def stop(service: Service) -> None:
    node = service.get("stop_signal")
    if node:
        service.sandbox.set("stop_signal", text(node), node)
    node = service.get("stop_grace_period")
    if node:
        service.sandbox.set("stop_timeout", -(-nanoseconds(node) // 10**9), node)


def logs(service: Service) -> None:
    node = service.get("logging")
    if not node:
        return
    given = known(node, ("driver", "options"), "logging")
    if "driver" in given and text(given["driver"]) not in _DRIVERS:
        service.warn(given["driver"], "is left out: sandlot keeps the output (sandlot logs)")
    options = mapping(given["options"]) if "options" in given else {}
    for key, item in options.items():
        if key not in ("max-size", "max-file"):
            service.warn(item, "is left out: sandlot keeps the output (sandlot logs)")
    largest, files = options.get("max-size"), options.get("max-file")
    if largest is not None and text(largest) != "-1":
        count = integer(files) if files is not None else 1
        try:
            whole = quantities.size("max-size", size(largest)) * max(count, 1)
        except SpecError as error:
            raise largest.failure(error.message, error.hint) from error
        service.sandbox.set("log_max_size", quantities.readable(whole), largest)


# -- the order of starts


def needs(service: Service) -> dict[str, tuple[str, Node]]:
    """The services that have to start before, each with its condition."""
    node = service.get("depends_on")
    needed: dict[str, tuple[str, Node]] = {}
    if node and isinstance(node.value, list):
        needed = {text(item): ("started", item) for item in node.value}
    for name, item in mapping(node).items() if node and not needed and node.value else ():
        condition = _condition(service, name, item)
        if condition:
            needed[name] = (condition, item)
    links = service.get("links")
    for item in sequence(links) if links else []:
        needed.setdefault(text(item).partition(":")[0], ("started", item))
    mode = service.get("network_mode")
    if mode and text(mode).startswith("service:"):
        needed.setdefault(text(mode).partition(":")[2], ("started", mode))
    for name, (dummy, item) in needed.items():
        _check(service, name, item)
    return needed


def _condition(service: Service, name: str, item: Node) -> str:
    """The condition in sandlot's word; "" where a service is missing that may be."""
    given = known(item, ("condition", "required", "restart"), "depends_on") if item.value else {}
    if "restart" in given and boolean(given["restart"]):
        service.warn(given["restart"], "is left out: a restart of one does not restart another")
    if "required" in given and not boolean(given["required"]):
        if name not in service.project.services:
            return ""
    word = text(given["condition"]) if "condition" in given else "service_started"
    if word not in _CONDITIONS:
        raise given["condition"].error("is no condition", f"use {', '.join(_CONDITIONS)}")
    return _CONDITIONS[word]


def _check(service: Service, name: str, item: Node) -> None:
    if name in service.project.services:
        return
    remedy = f"there are: {', '.join(service.project.services)}"
    if name in service.project.section("services"):
        remedy = "activate its profile by the option profiles"
    raise item.failure(f"service {name!r} is not there, or in no active profile", remedy)


def order(service: Service) -> None:
    for name, (condition, item) in needs(service).items():
        for other in service.project.instances(name):
            entry = other if condition == "started" else {"name": other, "condition": condition}
            service.sandbox.add("depends_on", entry, item)
