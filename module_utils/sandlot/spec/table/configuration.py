# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of configuration: files, secrets and environment variables."""

from __future__ import annotations

from functools import partial
from typing import Tuple

from ...plan import Change
from .. import configuration, text
from ..option import Option, Reach
from ..values import NONE

_SOURCES = (
    Option(
        "src",
        "str",
        configuration.elsewhere,
        [
            "A file of the controller with the content, found as by M(ansible.builtin.copy). "
            "It is taken as it is, binary too.",
        ],
    ),
    Option(
        "template_src",
        "str",
        configuration.elsewhere,
        [
            "A template of the controller that makes the content, found and rendered as by "
            "M(ansible.builtin.template).",
        ],
    ),
)
_OWNERS = (
    Option(
        "owner",
        "str",
        configuration.owner,
        ["User that owns it: a name from the sandbox, or an id from 0 to 65535 in quotes."],
        default="0",
    ),
    Option(
        "group",
        "str",
        configuration.owner,
        ["Group that owns it; without it, the group of the owner, else V(0)."],
    ),
)
_CHANGES = (
    Option(
        "on_change",
        "str",
        partial(text.choice, choices=configuration.ON_CHANGE),
        [
            "A running sandbox sees a change without a restart. With V(reload), its workload gets "
            "a signal then; with V(none), nothing more happens.",
            "With V(restart), the sandbox is restarted, and sees the change then.",
        ],
        default=NONE,
        choices=configuration.ON_CHANGE,
    ),
    Option(
        "reload_signal",
        "str",
        configuration.reload_signal,
        ["Signal of V(reload), by name or number; without it, V(SIGHUP)."],
        numeric=True,
    ),
)


def _fields(content: str, mode: str) -> Tuple[Option, ...]:
    """The suboptions that files and secrets share."""
    return (
        Option(
            content,
            "str",
            configuration.content,
            ["The content, as text, which Ansible templates as any variable."],
            secret=True,
        ),
        *_SOURCES,
        Option(
            "encoding",
            "str",
            partial(text.choice, choices=configuration.ENCODINGS),
            [f"Whether C({content}) is text, or text in base64 of any bytes."],
            default=configuration.UTF8,
            choices=configuration.ENCODINGS,
        ),
        *_OWNERS,
        Option(
            "mode", "str", configuration.mode, ["Permissions in octal, in quotes."], default=mode
        ),
        *_CHANGES,
    )


FILE_FIELDS = (
    Option(
        "target",
        "str",
        configuration.target,
        ["Absolute path of the file in the sandbox."],
        required=True,
    ),
    *_fields("content", "0644"),
)
SECRET_FIELDS = (
    Option("name", "str", configuration.secret_name, ["Name of the secret."], required=True),
    *_fields("value", "0444"),
    Option(
        "target",
        "str",
        configuration.target,
        ["Absolute path of its file in the sandbox; without it, C(/run/secrets/NAME)."],
    ),
)
VARIABLE_FIELDS = (
    Option(
        "value",
        "str",
        configuration.content,
        ["Value of the variable."],
        required=True,
        secret=True,
    ),
    Option("secret", "bool", text.flag, ["Whether it is kept as a secret is."], default=True),
)

ENV = Option(
    "env",
    "dict",
    partial(configuration.environment, fields=VARIABLE_FIELDS),
    [
        "Environment variables, beside those of the image. Quote values that YAML would read "
        "as booleans or numbers; others than text are refused.",
        "Results, diffs and messages hide their values; a digest shows that one has changed.",
        "A value written as C({value: TEXT, secret: true}) is kept as those of O(secrets) are, "
        "and is in no record of the host.",
    ],
    reaches={Reach.INIT},
    change=Change.RESTART,
    default={},
    dump=configuration.dump_environment,
    load=configuration.load_environment,
    secret=True,
)
OPTIONS = (
    Option(
        "env_file",
        "list",
        configuration.elsewhere,
        [
            "Files of the controller with lines C(NAME=VALUE), in the notation of Compose without "
            "interpolation; one path, or a list.",
            "Their variables are secret ones of O(env). Later files win over earlier ones, and "
            "O(env) wins over them.",
        ],
        reaches={Reach.CONVERGE},
        default=[],
        elements="str",
        later=True,
    ),
    Option(
        "files",
        "list",
        partial(configuration.files, fields=FILE_FIELDS),
        [
            "Files that the sandbox gets, read-only, over those of its image and layer. They are "
            "no part of its layer.",
            "Each has one of O(files[].content), O(files[].src) and O(files[].template_src), "
            "of up to 1 MiB.",
            "A change reaches a running sandbox at once, as a whole; O(files[].on_change) tells "
            "what follows. A directory, or a place in a volume or bind mount, can't be a target.",
        ],
        reaches={Reach.ROOT},
        key="mounts",
        change=Change.LIVE,
        default=[],
        dump=partial(configuration.dump, fields=FILE_FIELDS),
        load=partial(configuration.load, key="content"),
        cost=configuration.cost,
        elements="dict",
        suboptions=FILE_FIELDS,
        secret=True,
        later=True,
        check=configuration.check_targets,
    ),
    Option(
        "secrets",
        "list",
        partial(configuration.secrets, fields=SECRET_FIELDS),
        [
            "Secrets that the sandbox gets as files in memory, read-only. The host keeps them "
            "readable by root only, and encrypted where it has systemd-creds.",
            "Each has one of O(secrets[].value), O(secrets[].src) and O(secrets[].template_src), "
            "of up to 512000 bytes.",
            "No record, result, diff or message has a value; a digest shows that one has changed. "
            "Changes reach a running sandbox as those of O(files) do.",
        ],
        reaches={Reach.ROOT},
        key="mounts",
        change=Change.LIVE,
        default=[],
        dump=partial(configuration.dump, fields=SECRET_FIELDS),
        load=partial(configuration.load, key="value"),
        cost=configuration.cost,
        elements="dict",
        suboptions=SECRET_FIELDS,
        secret=True,
        later=True,
    ),
)
