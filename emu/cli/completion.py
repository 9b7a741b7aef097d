"""Print what makes a shell complete emu's words: verbs, options, their values, and the keys of --nvdimm and others."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.cli.surface import Command

EPILOG = """\
The words are printed once and cost nothing later; do it again for a new version of emu.

examples:
  emu completion bash > ~/.local/share/bash-completion/completions/emu
  emu completion zsh > ~/.zfunc/_emu                 a folder in $fpath
  emu completion fish > ~/.config/fish/completions/emu.fish
"""

_FILE_KEYS = ("file", "mem-path")
_FILE = "FILE"  # in a list of words: and names of files
_NO_VERB = "-"

_BASH = r"""# Completion of emu for bash, written by 'emu completion bash'.
declare -gA _emu_words=(
@WORDS@
)
declare -gA _emu_values=(
@VALUES@
)

_emu() {
    local line=${COMP_LINE:0:COMP_POINT} command= found= value cut=
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local word=${words[-1]} before=
    ((${#words[@]} > 2)) && before=${words[-2]}
    for value in "${words[@]:1:${#words[@]}-2}"; do
        [[ -v "_emu_words[${command:+$command }$value]" ]] && command+="${command:+ }$value"
    done
    COMPREPLY=()
    if [[ -v "_emu_values[$command $before]" ]]; then
        found=${_emu_values[$command $before]}
        if [[ $found == *= ]]; then
            local last=${word##*,}
            local front=${word%"$last"}
            compopt -o nospace 2> /dev/null
            if [[ $last == *=* ]]; then
                front+=${last%%=*}=
                found=${_emu_values[$command $before ${last%%=*}]-}
                last=${last#*=}
            fi
            mapfile -t COMPREPLY < <(compgen -P "$front" -W "$found" -- "$last")
            if [[ $found == FILE ]]; then
                compopt -o filenames 2> /dev/null
                mapfile -t COMPREPLY < <(compgen -P "$front" -f -- "$last")
            fi
        else
            mapfile -t COMPREPLY < <(compgen -W "$found" -- "$word")
        fi
    else
        found=${_emu_words[${command:--}]}
        mapfile -t COMPREPLY < <(compgen -W "${found% FILE}" -- "$word")
        if [[ $found == *FILE && $word != -* ]]; then
            compopt -o filenames 2> /dev/null
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$word")
        fi
    fi
    # Readline takes what stands behind a = for a word of its own.
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=${word%"${word##*=}"}
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
# Not "-o filenames": readline would put a \\ before the = and the comma of a word that is no name of a file.
complete -F _emu emu
"""

_ZSH = r"""#compdef emu
# Completion of emu for zsh, written by 'emu completion zsh'.
typeset -gA _emu_words=(
@WORDS@
)
typeset -gA _emu_values=(
@VALUES@
)

_emu() {
    local command= next value found
    for value in "${(@)words[2,CURRENT-1]}"; do
        next="${command:+$command }$value"
        [[ -n ${_emu_words[$next]} ]] && command=$next
    done
    local asked="$command $words[CURRENT-1]"
    found=${_emu_values[$asked]}
    if [[ $found == *= ]]; then
        asked+=" ${${PREFIX##*,}%%=*}"
        if [[ ${PREFIX##*,} == *=* ]]; then
            found=${_emu_values[$asked]}
            compset -P '*,'
            compset -P '*='
            if [[ $found == FILE ]]; then _files -S ' ' -r ','; else compadd -S ' ' -r ',' -- ${=found}; fi
        else
            compset -P '*,'
            compadd -S '' -- ${=found}
        fi
    elif [[ -n $found ]]; then
        compadd -- ${=found}
    else
        found=${_emu_words[${command:--}]}
        compadd -- ${=found% FILE}
        [[ $found == *FILE && $PREFIX != -* ]] && _files
    fi
}
# Run as a function of $fpath it completes at once; sourced, it only says what it is for.
if [[ $funcstack[1] == _emu ]]; then _emu "$@"; else compdef _emu emu; fi
"""

_FISH = r"""# Completion of emu for fish, written by 'emu completion fish'.
function __emu_is
    # Whether the words before the cursor are of the command that the arguments name.
    set -l words (commandline -opc)
    test (count $words) -gt (count $argv); and test "$words[2.."(math (count $argv) + 1)"]" = "$argv"
end
function __emu_keys
    # The keys of an option, behind those that are there; the values of a key behind its =.
    set -l word (commandline -ct)
    set -l front (string match -r '^.*,' -- $word)
    set -l last (string replace -r '^.*,' '' -- $word)
    for key in $argv
        set -l parts (string split -m1 = -- $key)
        if string match -q -- "$parts[1]=*" $last
            if test $parts[2] = FILE
                set -l begin (string replace -r '^[^=]*=' '' -- $last)
                printf "$front$parts[1]=%s\n" (__fish_complete_path $begin)
            else
                printf "$front$parts[1]=%s\n" (string split '|' -- $parts[2])
            end
        else
            echo "$front$parts[1]="
        end
    end
end
complete -c emu -f -n 'test (count (commandline -opc)) -eq 1' -a '@VERBS@'
@LINES@
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")


def run(options: argparse.Namespace) -> int:
    from emu.cli.surface import commands

    written = {"bash": bash, "zsh": zsh, "fish": fish}[options.shell](list(commands()))
    print(written, end="")
    return 0


def bash(known: list[Command]) -> str:
    """A script that ``source`` takes; needs bash 4.3."""
    return _tables(_BASH, known, "    [{}]={}")


def zsh(known: list[Command]) -> str:
    """A function for a folder of ``fpath``; needs zsh 5."""
    return _tables(_ZSH, known, "    {} {}")


def _tables(script: str, known: list[Command], row: str) -> str:
    """``script`` with the words that may follow a command, and the values of its options, as its arrays."""
    words = {_NO_VERB: " ".join(_verbs(known)), **_words(known)}
    values: dict[str, str] = {}
    for command in known:
        for option in command.options:
            keys = {name: _key_values(name, key.shape) for name, key in option.keys.items()}
            found = " ".join(f"{name}=" for name in keys) or " ".join(option.choices)
            for spelling in option.names if found else ():
                values[f"{command.name} {spelling}"] = found
                values.update({f"{command.name} {spelling} {key}": listed for key, listed in keys.items() if listed})
    for place, table in (("@WORDS@", words), ("@VALUES@", values)):
        rows = (row.format(shlex.quote(name), shlex.quote(text)) for name, text in table.items())
        script = script.replace(place, "\n".join(rows))
    return script


def _verbs(known: list[Command]) -> list[str]:
    return [command.name for command in known if " " not in command.name]


def _words(known: list[Command]) -> dict[str, str]:
    """What may follow each command: actions, bundled guests, options, and files where it takes words of any kind."""
    from emu import guest

    guests = [image.name for image in guest.images()]
    found = {}
    for command in known:
        options = (name for option in command.options for name in option.names)
        named = (
            guests
            if command.words[:1] and command.words[0][0] == "IMAGE"
            else _verbs(known)
            if command.name == "help"
            else []
        )
        file = [] if command.actions or command.name == "help" else [_FILE]
        found[command.name] = " ".join([*command.actions, *named, *options, *file])
    return found


def _key_values(name: str, shape: str) -> str:
    """The values of a key where they can be listed."""
    if name in _FILE_KEYS:
        return _FILE
    return " ".join(shape.split("|")) if "|" in shape else ""


def fish(known: list[Command]) -> str:
    """A file for fish's folder of completions."""
    words = _words(known)
    lines = (
        line
        for command in known
        for line in _fish_lines(
            command, (name for name in words if name.startswith(f"{command.name} ")), words[command.name]
        )
    )
    return _FISH.replace("@VERBS@", " ".join(_verbs(known))).replace("@LINES@", "\n".join(lines))


def _fish_lines(command: Command, longer: Iterable[str], listed: str) -> Iterable[str]:
    here = f"complete -c emu -n '{'; and not '.join(f'__emu_is {name}' for name in (command.name, *longer))}'"
    words = [word for word in listed.split() if not word.startswith("-")]
    if _FILE not in words:
        yield f"{here} -f"
    if words := [word for word in words if word != _FILE]:
        yield f"{here} -a '{' '.join(words)}'"
    for option in command.options:
        parts = [here]
        for name in option.names:
            letter = "-l" if name.startswith("--") else "-s" if len(name) == 2 else "-o"
            parts.append(f"{letter} {name.lstrip('-')}")
        if option.keys:
            keys = (f"{name}={'|'.join(_key_values(name, key.shape).split())}" for name, key in option.keys.items())
            parts.append(f"-x -a {_fish_quoted('(__emu_keys ' + ' '.join(map(_fish_quoted_inside, keys)) + ')')}")
        elif option.choices:
            parts.append(f"-x -a {_fish_quoted(' '.join(option.choices))}")
        elif option.value:
            parts.append("-r")
        yield " ".join([*parts, f"-d {_fish_quoted(option.summary)}"])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_quoted_inside(text: str) -> str:
    return f'"{text}"'
