# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""Completion in real shells, and the manual page in groff."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from sandlot.cli import completion, manual
from sandlot.cli.verbs import VERBS


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A command that knows two sandboxes and two images."""
    command = tmp_path / "sandlot"
    command.write_text(
        '#!/bin/sh\ncase "$*" in "completion --names") printf "web\\nworker\\n" ;;\n'
        '"completion --images") printf "busybox\\ndebian\\n" ;; esac\n'
    )
    command.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}


COMPLETED = [
    (["li"], ["list"]),
    (["re"], ["refresh", "repair", "restart"]),
    (["inspect", "w"], ["web", "worker"]),
    (["inspect", "web", "wo"], ["worker"]),
    (["exec", "-t", "we"], ["web"]),
    (["list", "--format", ""], ["json", "text"]),
    (["images", "pr"], ["prune"]),
    (["images", "--w"], ["--watch"]),
    (["completion", ""], ["bash", "fish", "zsh"]),
    (["up", ""], []),
    (["snapshots", "wo"], ["worker"]),
    (["snapshots", "cl"], ["clone"]),
    (["kill", "-s", "US"], ["USR1", "USR2"]),
    (["kill", "-s", "TERM", "wo"], ["worker"]),
    (["rm", "--f"], ["--force", "--format"]),
    (["wait", "w"], ["web", "worker"]),
    (["stats", "w"], ["web", "worker"]),
    (["run", "--image", "bu"], ["busybox"]),
    (["cp", "-a", "wo"], ["worker:"]),
    (["cp", "file", "we"], ["web:"]),
]


@pytest.mark.parametrize(("words", "expected"), COMPLETED, ids=lambda value: " ".join(value))
def test_bash_completes(words: list[str], expected: list[str], environment: dict[str, str]) -> None:
    script = (
        # That command is for functions that readline calls.
        "compopt() { :; }; "
        'COMP_WORDS=(sandlot "$@"); COMP_CWORD=$#; _sandlot; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-uc", f"{completion.bash()}\n{script}", "bash", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (sorted(done.stdout.split()), done.stderr) == (expected, "")


@pytest.mark.parametrize(
    "words",
    [
        ["exec", "web", "--", "w"],
        ["exec", "-u", ""],
        ["exec", "--env-file", ""],
        ["logs", "--since", ""],
        ["cp", "web", ":"],
        ["cp", "web", ":", "we"],
    ],
    ids=" ".join,
)
def test_bash_leaves_free_words_alone(words: list[str], environment: dict[str, str]) -> None:
    test_bash_completes(words, [], environment)


def test_bash_is_told_by_complete(environment: dict[str, str]) -> None:
    script = f"{completion.bash()}\ncomplete -p sandlot"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o default -F _sandlot sandlot\n"


@pytest.mark.parametrize(("words", "expected"), COMPLETED, ids=lambda value: " ".join(value))
def test_fish_completes(words: list[str], expected: list[str], environment: dict[str, str]) -> None:
    line = " ".join(["sandlot", *words])
    script = f"{completion.fish()}\ncomplete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env={**environment, "XDG_CONFIG_HOME": environment["HOME"]},
        capture_output=True,
        text=True,
        check=True,
    )
    offered = {each.partition("\t")[0] for each in done.stdout.splitlines()}
    assert sorted(offered) == expected


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    (tmp_path / "_sandlot").write_text(completion.zsh())
    script = (
        "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; "
        "print ${_comps[sandlot]}; autoload +X _sandlot; "
        "unset '_comps[sandlot]'; source $1/_sandlot; print ${_comps[sandlot]}"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", script, "zsh", str(tmp_path)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("_sandlot\n_sandlot\n", "")


def test_the_manual_page_is_sound() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-P-cbou"],
        input=manual.page(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert all(any(line.split()[:1] == [verb.name] for line in lines) for verb in VERBS)
