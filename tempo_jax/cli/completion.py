"""`tempo completion bash|zsh|fish`: a script made from the parser itself, so that it is never behind."""

import argparse
import shlex

HELP = """\
Print a script that completes tempo's commands and options on TAB:
  bash   eval "$(tempo completion bash)"            in ~/.bashrc
  zsh    eval "$(tempo completion zsh)"             in ~/.zshrc, after compinit
  fish   tempo completion fish | source             in config.fish"""

BASH = """\
_tempo() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$current")); return
  fi
  case "${{COMP_WORDS[1]}} $previous" in
{values}
  esac
  case "${{COMP_WORDS[1]}}" in
{options}
  esac
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$current"));;
    *) COMPREPLY=($(compgen -f -- "$current"));;
  esac
}}
complete -o filenames -F _tempo tempo
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a shell's completion script",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=lambda args: run_completion(args, commands))


def run_completion(args: argparse.Namespace, commands: argparse._SubParsersAction) -> int:
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](commands), end="", flush=True)
    return 0


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    shown = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    return [action for action in shown if action.option_strings or action.choices]


def _bash(commands: argparse._SubParsersAction) -> str:
    options, values = [], []
    for name, parser in commands.choices.items():
        words = [flag for action in _actions(parser) for flag in action.option_strings]
        positional = [choice for a in _actions(parser) if not a.option_strings for choice in a.choices or ()]
        if positional:
            values.append(_case(f'"{name} {name}"', positional))
        options.append(f'    {name}) words="{" ".join(words)}";;')
        for action in _actions(parser):
            if action.choices and action.option_strings:
                keys = "|".join(f'"{name} {flag}"' for flag in action.option_strings)
                values.append(_case(keys, action.choices))
    return BASH.format(
        commands=" ".join(commands.choices), values="\n".join(values), options="\n".join(options)
    )


def _case(keys: str, words) -> str:
    return f'    {keys}) COMPREPLY=($(compgen -W "{" ".join(map(str, words))}" -- "$current")); return;;'


def _zsh(commands: argparse._SubParsersAction) -> str:
    return "autoload -Uz bashcompinit && bashcompinit\n" + _bash(commands)


def _fish(commands: argparse._SubParsersAction) -> str:
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    lines = []
    for name, parser in commands.choices.items():
        description = shlex.quote(helps.get(name, ""))
        lines.append(f"complete -c tempo -n __fish_use_subcommand -f -a {name} -d {description}")
        for action in _actions(parser):
            line = f"complete -c tempo -n '__fish_seen_subcommand_from {name}'"
            line += "".join(f" -l {flag[2:]}" for flag in action.option_strings if flag.startswith("--"))
            line += "".join(f" -s {flag[1:]}" for flag in action.option_strings if flag[1:2] != "-")
            if action.choices:
                line += f" -x -a {shlex.quote(' '.join(map(str, action.choices)))}"
            elif action.nargs != 0:
                line += " -r"
            lines.append(line + f" -d {shlex.quote(action.help or '')}")
    return "\n".join(lines) + "\n"
