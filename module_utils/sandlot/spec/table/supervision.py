# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of restarts, stopping, logs, labels, health and the order of starts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ...plan import Change
from .. import dependencies, healthcheck, names, quantities, text
from ..option import Option, Reach
from ..text import refusal

if TYPE_CHECKING:
    from ..model import Spec

RESTART_POLICIES = ("no", "on-failure", "always", "unless-stopped")
DAY = 86400


_HEALTH_FIELDS = (
    Option(
        "test",
        "raw",
        healthcheck.test,
        [
            "Command that succeeds when the workload is healthy, run as the workload is.",
            "A string for C(/bin/sh), or a list that begins with V(CMD) or V(CMD-SHELL). "
            'V(["NONE"]) is no healthcheck, also when the image brings one.',
        ],
    ),
    Option(
        "tcp",
        "raw",
        healthcheck.tcp,
        [
            "Port that accepts connections when the workload is healthy, as V(PORT) or "
            "V(ADDRESS:PORT) inside the sandbox, where V(localhost) is the only name.",
        ],
    ),
    Option(
        "http",
        "str",
        healthcheck.http,
        [
            "URL inside the sandbox that is answered with a status from 200 to 399 when the "
            "workload is healthy, such as V(http://localhost:8080/health).",
            "No name but V(localhost) is looked up, no redirection followed.",
        ],
    ),
    Option(
        "interval",
        "str",
        partial(healthcheck.duration, minimum="100ms", maximum="24h"),
        ["Time from the end of one check to the next one, such as V(1m30s)."],
        default="30s",
    ),
    Option(
        "timeout",
        "str",
        partial(healthcheck.duration, minimum="100ms", maximum="1h"),
        ["Time after which a check has failed; a command is then killed."],
        default="30s",
    ),
    Option(
        "retries",
        "int",
        partial(quantities.integer, minimum=1, maximum=1000),
        ["How many checks in a row have to fail until the sandbox is unhealthy."],
        default=3,
    ),
    Option(
        "start_period",
        "str",
        partial(healthcheck.duration, minimum="0s", maximum="24h"),
        ["Time after a start in which failed checks do not count."],
        default="0s",
    ),
    Option(
        "action",
        "str",
        partial(text.choice, choices=healthcheck.ACTIONS),
        [
            "Action when the sandbox becomes unhealthy.",
            "V(restart) ends the workload as a stop does and starts it again after a back-off, "
            "whatever O(restart_policy) is.",
        ],
        default="none",
        choices=healthcheck.ACTIONS,
    ),
)

parse_healthcheck = partial(healthcheck.parse, fields=_HEALTH_FIELDS)


def _needs_on_failure(spec: Spec) -> None:
    if spec.restart_retries and spec.restart_policy != "on-failure":
        problem = f"has no meaning with restart_policy {spec.restart_policy}"
        hint = "set restart_policy: on-failure, or leave it out"
        raise refusal("restart_retries", spec.restart_retries, problem, hint=hint)


def _names_others(spec: Spec) -> None:
    if any(item.name == spec.name for item in spec.depends_on):
        hint = "leave it out; where it is a default of all, give this one depends_on: []"
        raise refusal("depends_on", spec.name, "is the sandbox itself", hint=hint)


OPTIONS = (
    Option(
        "restart_policy",
        "str",
        partial(text.choice, choices=RESTART_POLICIES),
        ["When the workload is started again after it ended."],
        reaches={Reach.INIT},
        key="restart",
        change=Change.LIVE,
        default="unless-stopped",
        choices=RESTART_POLICIES,
    ),
    Option(
        "restart_retries",
        "int",
        partial(quantities.integer, minimum=0, maximum=2**31 - 1),
        ["How often O(restart_policy=on-failure) tries again; V(0) is without end."],
        reaches={Reach.INIT},
        key="restart",
        change=Change.LIVE,
        default=0,
        check=_needs_on_failure,
    ),
    Option(
        "stop_signal",
        "str",
        quantities.signal_number,
        [
            "Signal that asks the workload to end, by name or number.",
            "Without it, that of the image, else V(SIGTERM).",
        ],
        numeric=True,
        reaches={Reach.INIT},
        key="stop",
        change=Change.LIVE,
        dump=lambda number: None if number is None else quantities.signal_name(number),
    ),
    Option(
        "stop_timeout",
        "int",
        partial(quantities.integer, minimum=0, maximum=DAY),
        ["Seconds between O(stop_signal) and C(SIGKILL), up to a day."],
        reaches={Reach.INIT},
        key="stop",
        change=Change.LIVE,
        default=10,
    ),
    Option(
        "log_max_size",
        "str",
        partial(quantities.size, minimum=quantities.LOG_MINIMUM),
        [
            "How much of the workload's output is kept, at least "
            f"V({quantities.readable(quantities.LOG_MINIMUM)})."
        ],
        numeric=True,
        reaches={Reach.INIT},
        change=Change.LIVE,
        default="10m",
    ),
    Option(
        "labels",
        "dict",
        partial(names.pairs, key=names.label_name, item=text.text),
        ["Names and values of your own, kept with the sandbox beside those of its image."],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default={},
        dump=dict,
    ),
    Option(
        "healthcheck",
        "dict",
        parse_healthcheck,
        [
            "How init finds out whether the workload does its work. It needs exactly one of "
            "O(healthcheck.test), O(healthcheck.tcp) and O(healthcheck.http).",
            "Until it succeeds for the first time it runs more often: after 0.1 seconds, then "
            "with doubling pauses up to the interval.",
            "Without it, that of the image, if it brings one.",
        ],
        reaches={Reach.INIT},
        change=Change.LIVE,
        dump=partial(healthcheck.dump, fields=_HEALTH_FIELDS),
        suboptions=_HEALTH_FIELDS,
    ),
    Option(
        "healthy_wait_timeout",
        "float",
        partial(quantities.number, minimum=1, maximum=DAY, digits=3),
        [
            "Seconds for which O(state=healthy) waits, up to a day.",
            "Without it, as long as the healthcheck may take to find the sandbox unhealthy: its "
            "start period and, for each retry, interval and timeout.",
            "To that come 5 seconds; it is at least 10 seconds and at most an hour.",
        ],
        reaches={Reach.CONVERGE},
    ),
    Option(
        "fail_on_crash",
        "float",
        partial(quantities.number, minimum=0, maximum=DAY, digits=3),
        [
            "Seconds for which a run watches the workload after it started it, up to a day. When "
            "the workload ends by itself within them, or ends again and again, the sandbox fails.",
            "Without it, the run watches until the healthcheck is decided for the first time, and "
            "for 2 seconds where there is none.",
            "With V(0), the run does not wait, and an end is a warning.",
            "An end with exit code 0 that O(restart_policy) does not follow with a start is no "
            "crash.",
        ],
        reaches={Reach.CONVERGE},
        later=True,
    ),
    Option(
        "depends_on",
        "list",
        dependencies.depends_on,
        [
            "Sandboxes of this host that are started before this one and stopped after it, also "
            "when the host boots and shuts down.",
            "Each is a name, or a mapping with C(name) and C(condition). With V(started), the "
            "default, it has to run. With V(healthy), its healthcheck has to succeed first.",
            "With V(completed), its workload has to end with exit code 0. That needs its "
            "O(restart_policy) V(no) or V(on-failure); it is left alone then until it changes.",
            "While one of them does not, this one is not started and fails with the reason. They "
            "can't be removed before this one.",
            "A restart of one of them does not restart this one.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        default=[],
        dump=dependencies.dump,
        elements="raw",
        check=_names_others,
    ),
)
