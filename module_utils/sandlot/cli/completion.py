# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the sandlot developers
"""sandlot completion: makes scripts for shells from the rows of the verbs."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Dict, List, Mapping, Sequence

from ..errors import SandlotError
from ..sandbox import names
from ..site import Site
from . import manual
from .verbs import FILES, IMAGES, PLACES, SANDBOXES, SHELLS, VERBS, Argument

# Only root can list sandboxes and images; for other users, everything else is completed.
_COMMANDS = {
    SANDBOXES: "sandlot completion --names 2>/dev/null",
    PLACES: "sandlot completion --names 2>/dev/null",
    IMAGES: "sandlot completion --images 2>/dev/null",
}
_BASH = """\
# sandlot completion bash > /usr/local/share/bash-completion/completions/sandlot
_sandlot() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} last=${{COMP_WORDS[COMP_CWORD - 1]}} words= suffix=
    COMPREPLY=()
    # A colon is a word of its own; what follows is a path inside.
    if [[ $word == : || $last == : ]]; then
        compopt +o default
        return 0
    fi
    if ((COMP_CWORD == 1)); then
        words="{verbs}"
    else
        case " ${{COMP_WORDS[*]:0:COMP_CWORD}} " in *" -- "*) return 0 ;; esac
        case "${{COMP_WORDS[1]}} $last" in
{values}
        *)
            case "${{COMP_WORDS[1]}} $word" in
{words}
            esac
            ;;
        esac
    fi
    [[ -z $suffix ]] || compopt -o nospace
    COMPREPLY=($(compgen -S "$suffix" -W "$words" -- "$word"))
}}
complete -o default -F _sandlot sandlot
"""
_ZSH = """\
#compdef sandlot
# sandlot completion zsh > /usr/local/share/zsh/site-functions/_sandlot
_sandlot_places() {{
    local -a sandboxes=($({names}))
    compadd -S : -a sandboxes
    _files
}}
_sandlot() {{
    local -a verbs=(
{verbs}
    )
    if ((CURRENT == 2)); then
        _describe -t commands command verbs
        return
    fi
    local verb=$words[2]
    shift words
    ((CURRENT--))
    case $verb in
{cases}
    esac
}}
# Loaded by compinit, or sourced.
if [ "$funcstack[1]" = _sandlot ]; then
    _sandlot "$@"
else
    compdef _sandlot sandlot
fi
"""
_FISH = """\
# sandlot completion fish > /etc/fish/completions/sandlot.fish
complete -c sandlot -f
{lines}
"""


def run(site: Site, options: argparse.Namespace) -> int:
    if options.names:
        site.require_root("use sudo")
        sys.stdout.writelines(f"{name}\n" for name in names.recorded(site))
    elif options.images:
        site.require_root("use sudo")
        # Not at the top, as names of sandboxes are asked for more often.
        from .. import images

        sys.stdout.writelines(f"{name}\n" for name in images.observe(site))
    elif options.shell is None:
        raise SandlotError("no shell is named", hint=f"choose one: {', '.join(SHELLS)}")
    else:
        sys.stdout.write({"bash": bash, "zsh": zsh, "fish": fish}[options.shell]())
    return 0


def write_files(directory: str) -> None:
    """Write the scripts and the manual page, which are installed with the engine."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    texts = {"bash": bash(), "fish": fish(), "sandlot.8": manual.page(), "zsh": zsh()}
    for name, text in texts.items():
        with open(f"{directory}/{name}", "w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), 0o644)
            handle.write(text)


def bash() -> str:
    """The script for bash; rows with the same completion share a branch."""
    values: Dict[str, List[str]] = {}
    words: Dict[str, List[str]] = {}
    for verb in VERBS:
        flags = [
            name for argument in verb.arguments if argument.is_option for name in argument.names
        ]
        if flags:
            words.setdefault(f'words="{" ".join(flags)}"', []).append(f'"{verb.name} -"*')
        for argument in verb.arguments:
            if argument.takes_value:
                patterns = [f'"{verb.name} {name}"' for name in argument.names]
                action = _in_bash([argument]) or "return 0"
                values.setdefault(action, []).extend(patterns)
    for verb in VERBS:
        offers = [argument for argument in verb.arguments if not argument.is_option]
        action = _in_bash([argument for argument in offers if argument.offers])
        if action:
            words.setdefault(action, []).append(f'"{verb.name} "*')
    return _BASH.format(
        verbs=" ".join(verb.name for verb in VERBS),
        values=_branches(values, " " * 8),
        words=_branches(words, " " * 12),
    )


def _in_bash(arguments: Sequence[Argument]) -> str:
    """The action of bash for a word that is one of these arguments; its default completes files."""
    words = " ".join(dict.fromkeys(filter(None, map(_offered, arguments))))
    suffix = "suffix=: " if any(argument.offers == PLACES for argument in arguments) else ""
    return f'{suffix}words="{words}"' if words else ""


def _branches(patterns: Mapping[str, Sequence[str]], indent: str) -> str:
    return "\n".join(f"{indent}{' | '.join(p)}) {action} ;;" for action, p in patterns.items())


def _offered(argument: Argument) -> str:
    """The words that are offered, "" for paths of the host."""
    if isinstance(argument.offers, str):
        command = _COMMANDS.get(argument.offers)
        return f"$({command})" if command else ""
    return " ".join(argument.offers)


def zsh() -> str:
    verbs = "\n".join(f"        {_quoted(f'{verb.name}:{verb.text}')}" for verb in VERBS)
    cases = []
    for verb in VERBS:
        specs: List[str] = []
        position = 0
        for argument in verb.arguments:
            text = argument.text.translate({ord(c): f"\\{c}" for c in "[]:"})
            values = f":{argument.names[-1].lstrip('-')}:{_in_zsh(argument)}"
            if argument.is_option:
                taken = values if argument.takes_value else ""
                specs += [f"{option}[{text}]{taken}" for option in argument.names]
            elif argument.offers:
                many = argument.settings.get("nargs") in ("*", "+")
                position += 1
                specs.append(f"{'*' if many else position}{values}")
        words = " ".join(["_arguments", *map(_quoted, specs), ";;"] if specs else [";;"])
        cases.append(f"    {verb.name}) {words}")
    names = _COMMANDS[SANDBOXES]
    return _ZSH.format(names=names, verbs=verbs, cases="\n".join(cases))


def _in_zsh(argument: Argument) -> str:
    if argument.offers == FILES:
        return "_files"
    if argument.offers == PLACES:
        return "_sandlot_places"
    return f"({_offered(argument)})" if argument.offers else ""


def fish() -> str:
    lines = []
    for verb in VERBS:
        text = _quoted(verb.text)
        lines.append(f"complete -c sandlot -n __fish_use_subcommand -a {verb.name} -d {text}")
        start = f"complete -c sandlot -n '__fish_seen_subcommand_from {verb.name}'"
        for argument in verb.arguments:
            offered = _offered(argument).replace("$(", "(")
            if argument.offers == PLACES:
                offered = f"({_COMMANDS[SANDBOXES]} | string replace -r '$' :)"
            names = argument.names if argument.is_option else ()
            words = [f"-{'l' if n.startswith('--') else 's'} {n.lstrip('-')}" for n in names]
            if argument.takes_value:
                words.append("-r -F" if argument.offers == FILES else "-x")
            elif argument.offers == PLACES:
                words.append("-F")
            if offered:
                words.append(f"-a {_quoted(offered)}")
            if words:
                lines.append(f"{start} {' '.join(words)} -d {_quoted(argument.text)}")
    return _FISH.format(lines="\n".join(lines))


def _quoted(text: str) -> str:
    """Quote for zsh and fish, which both take text in single quotes literally."""
    return "'" + text.replace("'", "'\\''") + "'"
