# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Options of identity: name, image and state."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...image_change import CHOICES, OPTION
from ...plan import Change
from .. import names, text
from ..option import Option, Reach

if TYPE_CHECKING:
    from ..model import Spec

ALLOWED = tuple(change.value for change in Change)
STATES = ("present", "started", "stopped", "healthy", "absent")


def _needs_image(spec: Spec) -> None:
    if spec.state != "absent" and not spec.image:
        raise text.refusal("image", None, "names no image", hint="name one of the host's images")


def _comparisons(option: str, value: Any) -> dict[str, str]:
    pairs = text.mapping(option, value, hint="use `option: ignore`")
    choices = ("strict", "ignore", "allow_more_present")
    for name, comparison in pairs.items():
        text.choice(f"{option}.{name}", comparison, choices=choices)
    return pairs


OPTIONS = (
    Option(
        "name",
        "str",
        names.sandbox_name,
        [
            "Name of the sandbox, unique on its host.",
            "1 to 63 ASCII letters, digits, C(_), C(.) and C(-); a letter or digit first.",
            "Names that hosts files and inventories use, such as V(localhost) and V(all), are "
            "refused.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.REBUILD,
        required=True,
    ),
    Option(
        "image",
        "str",
        names.image_name,
        [
            "Name of the image that is the sandbox's root filesystem. Required unless "
            "O(state=absent).",
            "V(NAME) follows the image: when it is updated, the sandbox moves to the new one.",
            "V(NAME@sha256:DIGEST) pins it: the sandbox stays on what has that digest, or the "
            "start of one.",
            "O(on_image_change) says whether the sandbox keeps its writable layer above another "
            "image.",
        ],
        reaches={Reach.IMAGE},
        change=Change.REBUILD,
        cost=names.image_cost,
        check=_needs_image,
    ),
    Option(
        OPTION,
        "str",
        partial(text.choice, choices=CHOICES),
        [
            "Whether the writable layer survives when the image is updated, or when O(image) names "
            "another one.",
            "V(keep) restarts the sandbox on the new image, with its layer. Files of the layer "
            "hide those of the image; the module names the ones that hide a change.",
            "V(fresh) rebuilds it, with a fresh layer; the old one is set aside as a snapshot.",
            "Either way the sandbox goes back to the old image unless it starts and becomes "
            "healthy.",
            "Without it, V(fresh) for images of source C(oci), whose data belongs in volumes, and "
            "V(keep) for others. Between two images, V(fresh) if either is of source C(oci).",
            "Sandboxes that an earlier version made above C(oci) images keep their layer when the "
            "image is updated, until they get a fresh one.",
        ],
        reaches={Reach.CONVERGE},
        change=Change.LIVE,
        choices=CHOICES,
        later=True,
    ),
    Option(
        "state",
        "str",
        partial(text.choice, choices=STATES),
        [
            "V(present) makes the sandbox and leaves it running or stopped as it is.",
            "V(started) also starts it, V(stopped) also stops it.",
            "V(healthy) starts it and waits until its O(healthcheck) succeeds; without one, until "
            "it has run for a second.",
            "V(absent) removes it with its writable layer.",
        ],
        reaches={Reach.CONVERGE},
        default="started",
        choices=STATES,
    ),
    Option(
        "restart",
        "bool",
        text.flag,
        ["Whether to restart the sandbox even if nothing about it changed."],
        reaches={Reach.CONVERGE},
        default=False,
    ),
    Option(
        "recreate",
        "bool",
        text.flag,
        [
            "Whether to make the sandbox again even if nothing about it changed.",
            "Its writable layer is set aside as a snapshot; name, addresses and ids stay.",
            "The new one is prepared while the old one runs. Unless it starts and becomes "
            "healthy, the old one is started again, and the module fails.",
        ],
        reaches={Reach.CONVERGE},
        default=False,
    ),
    Option(
        "allow_changes",
        "str",
        partial(text.choice, choices=ALLOWED),
        [
            "The greatest change that a run may make to the sandbox. With a greater one, the "
            "module fails before it does anything, in check mode as well.",
            "With V(live), the workload runs on. V(restart) also allows to stop it and to start it "
            "again, V(rebuild) also to remove it. All allow a new sandbox, and the start of one "
            "that is down.",
            "As a default of a host, it also holds for sandboxes that the run changes without "
            "being asked to: those that a purge removes, and those that share the network of "
            "another one.",
        ],
        reaches={Reach.CONVERGE},
        default="rebuild",
        choices=ALLOWED,
        later=True,
    ),
    Option(
        "comparisons",
        "dict",
        _comparisons,
        [
            "How options are compared with those that the sandbox has, by their names; V(*) is for "
            "all that are not named.",
            "V(strict) is the default. With V(ignore), the sandbox keeps what it has.",
            "With V(allow_more_present), a list or mapping, and a mapping in a list, may have more "
            "than was asked for. One that lacks something becomes what was asked for; of "
            "O(networks), others stay connected.",
            "V(image: ignore) also ignores an update of the image.",
        ],
        reaches={Reach.CONVERGE},
        default={},
        later=True,
    ),
)
