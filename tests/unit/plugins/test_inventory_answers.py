# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""What hosts answer to the inventory plugin: nothing of it is believed before it is checked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.inventory.group import to_safe_group_name
from sandlot_plugins.plugin_utils import asking, listing

TOP = Path(__file__).resolve().parents[3]
GOOD = {
    "name": "web",
    "image": "busybox",
    "state": "running",
    "labels": {"role": "web"},
    "addresses": ["10.77.0.2", "fd77::2"],
    "published_ports": ["0.0.0.0:8080:80/tcp"],
    "health": "healthy",
}


def safe(name: str) -> str:
    return to_safe_group_name(name, force=True, silent=True)


def test_a_record_is_taken_over_without_what_is_not_asked_for() -> None:
    assert listing.checked([{**GOOD, "pid": 1, "_ansible": "x"}]) == ([GOOD], [])
    older = {key: value for key, value in GOOD.items() if key != "labels"}
    assert listing.checked([{**older, "health": None}])[0] == [
        {**GOOD, "labels": {}, "health": None}
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "../web"}, "sandbox ../web has no valid name: ../web"),
        ({"name": "a..b"}, "has no valid name"),
        ({"name": "web@beta"}, "has no valid name"),
        ({"name": "web\n"}, r"sandbox web\\n has no valid name"),
        ({"name": "x" * 64}, "has no valid name"),
        ({"name": None}, "record 0 has no valid name: NoneType"),
        ({"name": "{{ x }}"}, "has no valid name"),
        ({"image": ["busybox"]}, "sandbox web has no valid image: list"),
        ({"image": "{% x %}"}, "has no valid image"),
        ({"image": "x" * 5000}, r"has no valid image: x{200}\.\.\.$"),
        ({"state": "\x1b[31mrunning"}, r"has no valid state: \\x1b\[31mrunning$"),
        ({"health": 1}, "has no valid health: int"),
        ({"labels": ["role"]}, "has labels that are no mapping of texts"),
        ({"labels": {"role": 1}}, "has labels that are no mapping of texts"),
        ({"addresses": "10.0.0.1"}, "has no list of addresses"),
        ({"addresses": ["{{ x }}"]}, "has no valid addresses"),
        ({"published_ports": [80]}, "has no valid published_ports: int"),
        (
            {"error": "no\x1b]0;x\x07 record", "state": "broken"},
            r"broken: no\\x1b\]0;x\\x07 record",
        ),
    ],
)
def test_a_record_of_another_form_is_left_out(changes: dict[str, Any], problem: str) -> None:
    good, problems = listing.checked([{**GOOD, **changes}, {**GOOD, "name": "db"}])
    assert [record["name"] for record in good] == ["db"]
    assert len(problems) == 1 and re.search(problem, problems[0])
    assert problems[0].isprintable()


def test_few_of_many_problems_are_shown() -> None:
    good, problems = listing.checked([GOOD, GOOD, *["x"] * 1000])
    assert good == [GOOD] and len(problems) == 6
    assert problems[0] == "sandbox web is there twice"
    assert problems[-1] == "996 more are unusable"


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (b"", "is not JSON"),
        (b"sh: sandlot: not found", "is not JSON; upgrade"),
        (b"[" * 100_000, "is not JSON"),
        (b"[%s]" % (b"9" * 5000), "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"name": "web"}', "is no list of sandboxes"),
        (b" " * (listing.MOST_BYTES + 1), "bytes; 16777216 are the limit"),
        (
            json.dumps([{**GOOD, "labels": dict.fromkeys(map(str, range(20_001)), "")}]).encode(),
            "20001 labels; 20000 are the limit",
        ),
        (json.dumps([1] * 10_001).encode(), "10001 sandboxes; 10000 are the limit"),
    ],
)
def test_an_answer_of_another_form_is_one_problem(output: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        listing.checked(listing.parsed(output))


def test_labels_keep_their_lines_and_lose_what_controls_a_terminal() -> None:
    labels = {"a\x1b[2J": "one\ntwo\x9b31m", "bidi": "\u202eevil", "{{ x }}": "{{ lookup('x') }}"}
    (record,), _ = listing.checked([{**GOOD, "labels": labels}])
    assert record["labels"] == {
        r"a\x1b[2J": "one\ntwo\\x9b31m",
        "bidi": r"\u202eevil",
        "{{ x }}": "{{ lookup('x') }}",
    }


def test_groups_have_names_that_ansible_makes_safe() -> None:
    labels = {"role": "web", "k8s.io/tier": "front-1", "empty": "", "long": "x" * 100, "a": "b\nc"}
    record = {**GOOD, "image": "registry.example/redis:7", "labels": labels, "state": "crash-loop"}
    assert listing.groups(record, "alpha.example", safe) == [
        *("host_alpha_example", "image_registry_example_redis_7", "state_crash_loop"),
        *("label_role_web", "label_k8s_io_tier_front_1", "label_empty"),
    ]


def test_no_variable_of_a_sandbox_is_one_of_the_roles() -> None:
    """They would take its value for a wish of the inventory."""
    texts = [path.read_text() for path in (TOP / "roles").rglob("*.yml")]
    used = {word for text in texts for word in re.findall(r"\bsandbox_\w+", text)}
    plugin = (TOP / "plugins/inventory/sandbox.py").read_text()
    (names,) = re.findall(r"^VARIABLES = (\(.*\))$", plugin, re.MULTILINE)
    emitted = {f"sandbox_{name}" for name in yaml.safe_load(f"[{names[1:-1]}]")}
    assert "sandbox_image" in emitted and "sandbox_images" in used
    assert emitted & used == set()


# -- processes that ask


def fails() -> None:
    raise AnsibleError("no way\x1b[2J to alpha")


def dies() -> None:
    os._exit(3)


def floods() -> int:
    # Memory that the process has and does not use comes on top.
    return len(b"x" * (2 * asking.MEMORY))


def one(question: Any, timeout: float = 20) -> asking.Answer:
    return asking.ask_all({"alpha": question}, forks=1, timeout=timeout)["alpha"]


def test_answers_and_problems() -> None:
    names = [f"host{number}" for number in range(9)]
    questions: dict[str, Any] = {name: lambda name=name: [name] for name in names}
    answers = asking.ask_all({**questions, "bad": fails, "dead": dies}, forks=3, timeout=20)
    assert {name: answers[name].value for name in names} == {name: [name] for name in names}
    assert answers["bad"].problem == r"no way\x1b[2J to alpha"
    assert answers["dead"].problem == "the process that asked it ended without an answer"
    assert asking.ask_all({}, forks=1, timeout=1) == {}


def test_no_more_processes_than_forks(tmp_path: Path) -> None:
    def question() -> int:
        mark = tmp_path / str(os.getpid())
        mark.touch()
        count = len(list(tmp_path.iterdir()))
        mark.unlink()
        return count

    answers = asking.ask_all(dict.fromkeys("abcdefgh", question), forks=2, timeout=20)
    assert all(1 <= answer.value <= 2 for answer in answers.values())


def test_memory_is_bounded() -> None:
    assert one(floods).problem == "its answer takes more than 512 MiB of memory"
    # The same answer passes where there is room for it.
    assert one(lambda: len(b"x" * (1 << 20))).value == 1 << 20


def test_a_host_that_does_not_answer_is_given_up_with_its_programs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def question() -> None:
        child = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "new").write_text(str(child.pid))
        (tmp_path / "new").rename(pid)
        signal.pause()

    answers = asking.ask_all({"slow": question, "quick": lambda: 1}, forks=2, timeout=2)
    assert answers["quick"].value == 1
    assert answers["slow"].problem == "it has not answered within 2 seconds"
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(int(pid.read_text()))
        assert select.select([ended], [], [], 20)[0]
        os.close(ended)
