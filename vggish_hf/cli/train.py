"""`vggish-hf train`: Lightning's command line over the classifier and the data modules."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

_CONFIGS = Path(__file__).parents[1] / "assets" / "training"

_DESCRIPTION = """\
Train a classifier on a folder of audio, on AudioSet's embeddings or on its clips. Every argument of
the classifier, the data module and Lightning's trainer is an option here, and may stand in a YAML
file. Two such files are built in: --config audioset-embeddings and --config demo.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Name the command; its options are Lightning's to describe."""
    parser = commands.add_parser("train", help="train a classifier", add_help=False)
    parser.set_defaults(run=run, rest=[])


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    cli = _make_cli(list(_with_paths(args.rest)))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    if cli.config.test:
        cli.trainer.test(cli.model, datamodule=cli.datamodule)
    if not cli.trainer.is_global_zero:
        return 0
    if cli.config.output is not None:
        cli.model.save_pretrained(cli.config.output)
        cli.parser.save(
            cli.config,
            Path(cli.config.output, "training.yaml"),
            skip_none=False,
            overwrite=True,
            multifile=False,
        )
        print(f"the classifier is in {cli.config.output}")
    if cli.config.network is not None:
        cli.model.network().save_pretrained(cli.config.network)
        print(f"the network is in {cli.config.network}")
    return 0


def _with_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Put its path where the name of a built-in config stands."""
    names = {path.stem: str(path) for path in _CONFIGS.glob("*.yaml")}
    previous = ""
    for argument in arguments:
        option, _, value = argument.partition("=")
        if previous in ("-c", "--config"):
            yield names.get(argument, argument)
        elif option == "--config" and value in names:
            yield f"{option}={names[value]}"
        else:
            yield argument
        previous = argument


def _make_cli(arguments: list[str]) -> "LightningCLI":
    from vggish_hf import lightning as ours  # says which extra is missing  # isort: skip
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

    class TrainCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument(
                "--test", type=bool, default=False, help="score the test data at the end"
            )
            parser.add_argument(
                "--output", type=str | None, default=None, help="folder to save the classifier in"
            )
            parser.add_argument(
                "--network",
                type=str | None,
                default=None,
                help="folder to save the network without its head in, for --model",
            )
            parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
            parser.link_arguments("data.task", "model.task", apply_on="instantiate")

        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            # Lightning's own warns wherever sys.argv is not empty, though it is not read.
            self.config = parser.parse_args(args)

    return TrainCLI(
        ours.VGGishClassifier,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=None,  # it writes to the working folder where there is no logger
        parser_kwargs={"prog": "vggish-hf train", "description": _DESCRIPTION},
        args=arguments,
        run=False,
        auto_configure_optimizers=False,
    )
