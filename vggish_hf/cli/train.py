"""`vggish-hf train`: Lightning's command line over the classifier and the data modules."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

import torch

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.cli._options import say

if TYPE_CHECKING:
    from vggish_hf.cli._train_cli import TrainCLI

_CONFIGS = Path(__file__).parents[1] / "assets" / "training"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Name the command; its options are Lightning's to describe."""
    parser = commands.add_parser("train", help="train a classifier", add_help=False)
    parser.set_defaults(run=run, rest=[])


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    import vggish_hf.lightning  # noqa: F401 - says which extra is missing
    from vggish_hf.cli._train_cli import TrainCLI, short_errors

    with short_errors():
        cli = TrainCLI(list(_with_paths(args.rest)))
        checkpoint = _find_checkpoint(cli)
        _check(cli)
        _fit(cli, checkpoint)
        if cli.trainer.is_global_zero:
            _save(cli)
        if cli.config.test:
            cli.datamodule.setup("test")
            if cli.datamodule.test is not None:
                cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else torch may abort the process at its exit
    return 0


def _with_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Replace the name of a built-in config by its path, and `--ckpt_path` by `--checkpoint`.

    Raises:
        ValueError: There is no such config, or options of the data come without their kind.
    """
    options = [argument.partition("=")[0] for argument in arguments]
    of_data = next((option for option in options if option.startswith("--data.")), None)
    if of_data not in (None, "--data.help") and not {"--data", "--config", "-c"} & set(options):
        raise ValueError(
            f"Expected --data, the kind of data, beside {of_data}: --data AudioFolderDataModule, "
            "or a recipe such as --config finetune"
        )
    previous = ""
    for argument in arguments:
        option, is_pair, value = argument.partition("=")
        if option == "--ckpt_path":
            argument, option = f"--checkpoint{is_pair}{value}", "--checkpoint"
        if previous in ("-c", "--config"):
            yield _find_config(argument)
        elif option == "--config" and is_pair:
            yield f"{option}={_find_config(value)}"
        else:
            yield argument
        previous = argument


def _find_config(name: str) -> str:
    built_in = {path.stem: str(path) for path in sorted(_CONFIGS.glob("*.yaml"))}
    if name in built_in:
        return built_in[name]
    if not Path(name).is_file():
        raise ValueError(
            f"Expected {', '.join(built_in)} or a YAML file for --config, got {name!r}"
        )
    return name


def _check(cli: "TrainCLI") -> None:
    """Check before training what would fail after it.

    Raises:
        ValueError: Something would.
    """
    folders = {"--output": cli.config.output, "--network": cli.config.network}
    given = {option: Path(folder) for option, folder in folders.items() if folder is not None}
    for option, folder in given.items():
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ValueError(f"Expected a folder for {option}, {str(there)!r} is a file")
    if len({folder.resolve() for folder in given.values()}) < len(given):
        raise ValueError(f"Expected two folders for --output and --network, got {folders}")
    if "--network" in given and cli.model.backbone is None:
        raise ValueError("Expected no --network: this classifier is a head alone, and has none")
    if not given and cli.trainer.is_global_zero:
        print("nothing will be saved: see --output and --network", file=sys.stderr)


def _find_checkpoint(cli: "TrainCLI") -> str | None:
    """The checkpoint to resume from; `last` is the newest one in the output folder.

    Raises:
        ValueError: There is none.
    """
    checkpoint: str | None = cli.config.checkpoint
    if checkpoint == "last" and not Path(checkpoint).exists():
        output = cli.config.output
        found = [] if output is None else list(Path(output).rglob("*.ckpt"))
        if not found:
            raise ValueError(
                f"Expected a checkpoint below --output for --checkpoint last, {output!r} has none; "
                "train with --trainer.callbacks+=ModelCheckpoint to get some"
            )
        checkpoint = str(max(found, key=lambda path: path.stat().st_mtime_ns))
    if checkpoint is not None and not is_zipfile(checkpoint):
        raise ValueError(f"Expected a Lightning checkpoint, got {checkpoint!r}, which is not one")
    return checkpoint


def _fit(cli: "TrainCLI", checkpoint: str | None) -> None:
    try:
        cli.trainer.fit(
            cli.model,
            datamodule=cli.datamodule,
            ckpt_path=checkpoint,
            weights_only=True,
        )
    except RuntimeError as error:
        if "loading state_dict" in str(error):
            raise ValueError(f"Expected a checkpoint of this classifier: {error}") from error
        raise
    except SystemExit:
        if cli.trainer.interrupted:  # Lightning exits with 1
            raise KeyboardInterrupt from None
        raise


def _save(cli: "TrainCLI") -> None:
    from vggish_hf.cli._train_cli import with_absolute_paths

    if cli.config.output is not None:
        cli.model.save_pretrained(cli.config.output)
        config = cli.parser.dump(with_absolute_paths(cli.config))
        with unfinished_file(Path(cli.config.output, "training.yaml")) as unfinished:
            unfinished.write_text(config, encoding="utf-8")
        say(f"the classifier is in {cli.config.output}")
    if cli.config.network is not None:
        cli.model.to_pipeline().save_pretrained(cli.config.network)
        say(f"the network is in {cli.config.network}")
