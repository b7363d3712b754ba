"""Commands whose modules are imported on use: most of them need torch."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command, as the list of all of them shows it."""

    module: str
    """Where its `add_parser` is, in this package."""
    help: str
    """As its parser has it."""


def add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, Command]) -> None:
    """Let a parser take commands, each by its name."""
    group = parser.add_subparsers(  # type: ignore[call-overload] # options of the action
        metavar="COMMAND", required=True, action=_Commands, modules=commands
    )
    for name, command in commands.items():
        group.add_parser(name, help=command.help)


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    def __init__(self, *args: Any, modules: Mapping[str, Command], **options: Any) -> None:
        super().__init__(*args, **options)
        self._modules = modules

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name = values[0]
        del self.choices[name]  # a name alone, until now
        import_module(f"{__package__}.{self._modules[name].module}").add_parser(self)
        super().__call__(parser, namespace, values, option_string)


def flags_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The longest flag of each option of a parser, and of the commands that it has described."""
    flags = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                flags.update(flags_of(command))
        elif action.option_strings:
            flags[action.dest] = max(action.option_strings, key=len)
    return flags
