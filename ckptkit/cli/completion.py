"""`ckptkit completion`: the script that makes a shell complete the command's words.

click finds out which parameter the word belongs to; the scripts are ours, since a candidate that
ends in "/" is typed on from, and names of tensors hold letters at which bash cuts words.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    split_arg_string,
)

from ckptkit.cli.main import COMPLETE_VAR
from ckptkit.cli.options import Choice
from ckptkit.cli.report_options import put_report, report_options

_BASH = """\
_ckptkit_completion() {
    local IFS=$'\\n' line="${COMP_LINE:0:$COMP_POINT}" replies word
    replies=$(COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null) || return
    # bash cuts words at "=" and "@" as well: what stands before the cut is there already
    word="${line##*[[:space:]]}"
    local cut="${word%%"${COMP_WORDS[COMP_CWORD]}"}"
    COMPREPLY=()
    while read -r reply; do
        reply="${reply#"$cut"}"
        [[ $reply == *[!A-Za-z0-9_./:@=,+%%#-]* ]] && printf -v reply %%q "$reply"
        [[ -n $reply ]] && COMPREPLY+=("$reply")
    done <<< "$replies"
    case "${COMPREPLY[0]-}" in */) [[ ${#COMPREPLY[@]} == 1 ]] && compopt -o nospace ;; esac
}
complete -o nosort -F _ckptkit_completion ckptkit ckptkit-tf
"""
_ZSH = """\
#compdef ckptkit ckptkit-tf
_ckptkit_completion() {
    local -a replies whole begun
    replies=("${(@f)$(COMP_WORDS="${(pj: :)words[1,CURRENT]}" \\
        %(complete_var)s=zsh_complete ${words[1]} 2>/dev/null)}")
    for reply in $replies; do
        [[ $reply == */ ]] && begun+=("$reply") || whole+=("$reply")
    done
    compadd -U -- $whole
    compadd -U -S "" -- $begun
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _ckptkit_completion "$@"
else
    compdef _ckptkit_completion ckptkit ckptkit-tf
fi
"""
_FISH = """\
function _ckptkit_completion
    set -l line (commandline -cp)
    set -l words (commandline -opc)
    env COMP_WORDS="$line" %(complete_var)s=fish_complete $words[1] 2>/dev/null
end
complete --no-files --command ckptkit --command ckptkit-tf --arguments "(_ckptkit_completion)"
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class _Completion(ShellComplete):
    """The line up to the cursor comes in COMP_WORDS; candidates go out one per line."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        if line[-1:].isspace() or not words:
            return words, ""
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        return str(item.value)


for _shell, _script in _SCRIPTS.items():
    add_completion_class(
        type(f"_{_shell.title()}", (_Completion,), {"name": _shell, "source_template": _script})
    )


@click.command("completion")
@click.argument("shell", type=Choice(tuple(_SCRIPTS)))
@report_options("completion")
def command(shell: str, **options: Any) -> None:
    """Print the script with which a shell completes paths, prefixes, names of tensors and options.

    \b
    To install it:
      bash:  ckptkit completion bash > ~/.local/share/bash-completion/completions/ckptkit
      zsh:   ckptkit completion zsh > DIR/_ckptkit      (DIR: one of $fpath)
      fish:  ckptkit completion fish > ~/.config/fish/completions/ckptkit.fish
    For this shell alone, in bash:
      source <(ckptkit completion bash)
    """
    put_report((_SCRIPTS[shell] % {"complete_var": COMPLETE_VAR}).splitlines(), options)
