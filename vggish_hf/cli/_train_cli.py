"""Lightning's command line over the classifier and the data modules, with short errors."""

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vggish_hf.cli._streams import flush_output
from vggish_hf.hub import BUILTIN_MODELS
from vggish_hf.lightning import ClipDataModule, VGGishClassifier

_DESCRIPTION = """\
Train a classifier on a folder of audio, on AudioSet's embeddings or on its clips. Every argument of
the classifier, the data module and Lightning's trainer is an option, also in a YAML file. Three
such files are built in: --config finetune (sounds of your own, from a trained network),
--config audioset-embeddings (a tagger) and --config esc10-demo (how the network `demo` was made).
The options of a data module: --data.help AudioFolderDataModule. Nothing is saved unless --output,
--network, a logger or a callback says where.
"""

# Lightning's messages about itself.
_USELESS_MESSAGES = ("💡 Tip", "TPU available", "Loading `train_dataloader` to estimate")
_USELESS_WARNINGS = (
    # Lightning asks torch and jsonargparse in ways that they deprecate.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"\s*(``instantiate_classes`` was deprecated|By default only one JsonargparseDeprecation)",
    # No validation data, which is a choice.
    "Total length of `list` across ranks is zero",
    # So is the number of worker processes: the embeddings need none.
    r"The '\w+_dataloader' does not have many workers",
)

# Options that are paths, in whatever part of a config.
_PATHS = frozenset(
    (
        *("source", "train_source", "test_source", "audio_folder", "cache_dir", "real"),
        *("output", "network", "checkpoint", "dirpath", "save_dir", "default_root_dir"),
    )
)

# How messages begin that jsonargparse wraps around the real error.
_WRAPPINGS = (
    "Parser key",
    "Does not validate",
    "Problem with given class_path",
    "- Expected a path",
)


class TrainCLI(LightningCLI):  # type: ignore[misc] # untyped
    """Makes the classifier, the data module and the trainer that arguments describe.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: list[str]) -> None:
        with suppress(ImportError):  # without `datasets` all else works
            import_module("vggish_hf.lightning.audioset_data")
        super().__init__(
            VGGishClassifier,
            ClipDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            trainer_defaults={
                "logger": False,  # it would write to the working folder
                "enable_model_summary": False,
                "callbacks": [ScoreLines()],
            },
            save_config_callback=None,
            parser_kwargs={
                "prog": "vggish-hf train",
                "usage": "%(prog)s [--config NAME_OR_FILE] [--OPTION VALUE ...]",
                "description": _DESCRIPTION,
                "exit_on_error": False,
            },
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # the classifier's own hyperparameters suffice
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither the classifier's, nor the data module's, nor the trainer's."""
        parser.add_argument(
            "--output", type=str | None, default=None, help="folder to save the classifier in"
        )
        parser.add_argument(
            "--network",
            type=str | None,
            default=None,
            help="folder to save the network without its head in, for --model",
        )
        parser.add_argument(
            "--checkpoint",
            type=str | None,
            default=None,
            help="a ModelCheckpoint's file to resume from, or last for the newest one below "
            "--output (also --ckpt_path)",
        )
        parser.add_argument(
            "--test", type=bool, default=True, help="score the test data, if any, at the end"
        )
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.task", "model.task", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; Lightning's own warns wherever sys.argv is not empty, though it is not read."""
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the trainer, with a progress bar on a terminal, and checkpoints only on request.

        Checkpoints whose callback has no `dirpath` go into OUTPUT/checkpoints.
        """
        trainer = self.config_init.trainer
        if trainer.enable_progress_bar is None:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        if trainer.enable_checkpointing is None:
            callbacks = trainer.callbacks or []
            checkpoints = [
                callback
                for callback in (callbacks if isinstance(callbacks, list) else [callbacks])
                if isinstance(callback, Checkpoint)
            ]
            kwargs["enable_checkpointing"] = bool(checkpoints)
            for callback in checkpoints:
                if self.config.output is not None and getattr(callback, "dirpath", "") is None:
                    callback.dirpath = os.path.abspath(
                        os.path.join(self.config.output, "checkpoints")
                    )
        return super().instantiate_trainer(**kwargs)


class ScoreLines(pl.Callback):  # type: ignore[misc] # untyped
    """Prints one line of scores per epoch and for the test."""

    def __init__(self) -> None:
        self._is_validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has validation scores of its own."""
        self._is_validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line."""
        prefixes = ("train_", "val_") if self._is_validated else ("train_",)
        self._print(f"epoch {trainer.current_epoch}", prefixes, trainer, pl_module)
        self._is_validated = False

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the test's line."""
        self._print("test", ("test_",), trainer, pl_module)

    def _print(
        self,
        title: str,
        prefixes: tuple[str, ...],
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
    ) -> None:
        # In every process, because reading may reduce them.
        scores = trainer.callback_metrics
        shown = [
            f"{name} {scores[name]:.4g}"
            for prefix in prefixes
            for name in scores
            if name.startswith(prefix)
        ]
        with suppress(OSError):  # a closed output does not end the training
            pl_module.print(f"{title}: {', '.join(shown)}")
        flush_output()


def with_absolute_paths(config: Namespace) -> Namespace:
    """Copy a config, with paths that do not depend on the working folder."""

    def absolute(key: str, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(absolute(key, item) for item in value)
        name = key.rpartition(".")[2]
        is_model = name == "pretrained" and value not in BUILTIN_MODELS
        if isinstance(value, (str, os.PathLike)) and (
            (name in _PATHS and value != "last") or (is_model and os.path.isdir(value))
        ):
            return os.path.abspath(value)
        return value

    found = config.clone()
    for key, value in list(found.items()):
        found[key] = absolute(key, value)
    return found


@contextmanager
def short_errors() -> Iterator[None]:
    """Hide useless messages, and shorten a user's errors to one line.

    Raises:
        ValueError: jsonargparse or Lightning raised an error; its reason alone.
    """
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_is_useful)
    try:
        with warnings.catch_warnings():
            for message in _USELESS_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    except (ArgumentError, MisconfigurationException, UnpicklingError, ValueError) as error:
        key = re.match(r'Parser key "(.*?)"', str(error))
        raise ValueError((f"--{key[1]}: " if key else "") + _reason(error)) from error
    finally:
        logger.removeFilter(_is_useful)


def _is_useful(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_USELESS_MESSAGES)


def _reason(error: BaseException) -> str:
    while str(error).lstrip().startswith(_WRAPPINGS) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    if text.startswith("Caught "):  # by a worker of a loader: the traceback, then the message
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())
