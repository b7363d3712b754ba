"""What several commands share: options, and what they print."""

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from vggish_hf.pipeline import VGGishPipeline

# Named here too, so that `--help` loads no torch.
DTYPES = ("float32", "bfloat16", "float16", "float64")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, `--revision`, `--device` and `--dtype`."""
    parser.add_argument(
        "--model",
        default="google",
        metavar="ID",
        help="Hub id, local folder, google for the published checkpoint, or demo for a small "
        "network that comes with the package (default: %(default)s)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the network"
    )


def load_pipeline(args: argparse.Namespace, **settings: Any) -> "VGGishPipeline":
    """Load the pipeline that the options of `add_model_options` name.

    Raises:
        ValueError: There is no such device.
    """
    from vggish_hf.pipeline import VGGishPipeline

    return VGGishPipeline.from_pretrained(
        args.model, device=args.device, dtype=args.dtype, revision=args.revision, **settings
    )


# Control, format (which turn the direction of text around) and undecodable characters, line ends.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object) -> str:
    r"""Escape what would move a terminal's cursor or hide text.

    For all text from a file: its name, an id, an error that quotes it.

    Example:
        >>> printable("a\x1b[2Jb\n\u202egnp.wav")
        'a\\x1b[2Jb\\n\\u202egnp.wav'
    """
    return "".join(
        character.encode("unicode-escape").decode("ascii")
        if unicodedata.category(character) in _UNPRINTABLE
        else character
        for character in str(text)
    )


def open_missing_streams() -> None:
    """Give a process that was started without standard streams (`2>&-`) ones that lead nowhere.

    Otherwise the next open file would get the stream's number, and all that libraries print
    there.
    """
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) < 3:
            os.set_inheritable(number, True)
        os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for good


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line; a closed output (`| head`) does not fail a job.

    Args:
        text: The line; pass text from files through `printable`.
        file: Where to; without it, the standard output.
    """
    stream = sys.stdout if file is None else file
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # The rest of the buffer would be written, and fail, again at the exit.
        with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), stream.fileno())


_flags: ContextVar[Mapping[str, str]] = ContextVar("flags")


@contextmanager
def naming_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Name options as the command line does: in a ValueError, and in what `in_flags` gets.

    Args:
        flags: The option for each name of an argument in Python.

    Example:
        >>> with naming_flags({"num_workers": "--workers"}):
        ...     raise ValueError("Expected `num_workers` of at least 1, got 0")
        Traceback (most recent call last):
        ...
        ValueError: Expected `--workers` of at least 1, got 0
    """
    token = _flags.set(flags)
    try:
        yield
    except ValueError as error:
        if len(error.args) == 1:  # of a plain one; it stays what it is
            error.args = (in_flags(str(error)),)
        raise
    finally:
        _flags.reset(token)


def in_flags(text: object) -> str:
    """Name the options in a text, such as the reason of a failed clip, as `naming_flags` does."""
    flags = _flags.get({})
    names = "|".join(map(re.escape, flags))
    return (
        re.sub(
            rf"`({names})`|(?<![\w?&/'-])({names})(?==)",
            lambda match: f"`{flags[match[1]]}`" if match[1] else flags[match[2]],
            str(text),
        )
        if flags
        else str(text)
    )
