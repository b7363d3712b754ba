"""`vggish-hf audioset`: the commands that deal with AudioSet."""

import argparse

from vggish_hf.cli import audioset_embed, audioset_export_clips, audioset_export_embeddings


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the group and its commands."""
    parser = commands.add_parser(
        "audioset",
        help="AudioSet as a data set: released embeddings, clips",
        description="AudioSet as a data set that `datasets.load_dataset` opens.",
    )
    group = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (audioset_export_embeddings, audioset_export_clips, audioset_embed):
        command.add_parser(group)
