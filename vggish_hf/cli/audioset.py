"""`vggish-hf audioset`: the commands that deal with AudioSet."""

import argparse

from vggish_hf.cli._commands import Command, add_commands

COMMANDS = {
    "export-embeddings": Command(
        "audioset_export_embeddings",
        "export the released embeddings to a folder that load_dataset opens",
    ),
    "export-clips": Command(
        "audioset_export_clips", "export audio clips to a folder that load_dataset opens"
    ),
    "embed": Command("audioset_embed", "embed clips as the released embeddings are"),
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the group and its commands."""
    parser = commands.add_parser(
        "audioset",
        help="AudioSet as a data set: released embeddings, clips",
        description="AudioSet as a data set that `datasets.load_dataset` opens.",
    )
    add_commands(parser, COMMANDS)
