"""The command line, `vggish-hf`: each command is a few lines over the library."""

import argparse
import gc
import signal
import sys
from collections.abc import Sequence

import vggish_hf
from vggish_hf.cli._commands import Command, add_commands, flags_of
from vggish_hf.cli._options import naming_flags, open_missing_streams, printable, say
from vggish_hf.cli._streams import (
    discard_output,
    flush_output,
    is_unread,
    keep_going_without_listeners,
)

COMMANDS = {
    "embed": Command("embed", "embed audio files"),
    "convert": Command("convert", "make a model folder of a checkpoint"),
    "info": Command("info", "describe a model, and what runs it on this machine"),
    "push": Command("push", "upload a model folder to the Hub"),
    "audioset": Command("audioset", "AudioSet as a data set: released embeddings, clips"),
    "train": Command("train", "train a classifier"),
    "predict": Command("predict", "classify audio"),
    "fad": Command("fad", "score generated audio"),
    "demo": Command("demo", "embed a bundled clip and draw it"),
}

# Arguments in Python whose options have another name.
_OPTIONS = {
    "example_hop_seconds": "example_hop",
    "file_bytes": "file_size",
    "infinity": "inf",
    "num_actors": "actors",
    "num_workers": "workers",
    "per_clip": "per_file",
    "pipeline": "model",
}

# A shell's exit code after SIGPIPE.
_UNREAD = 128 + 13

_EPILOG = """\
examples:
  vggish-hf embed music/ -o music.parquet
  vggish-hf convert vggish_model.ckpt --pca vggish_pca_params.npz -o vggish/
  vggish-hf embed clip.wav --model vggish/ --postprocess uint8 -o clip.npz
  vggish-hf train --config finetune --data.source sounds/ --output mine/

`vggish-hf COMMAND --help` describes each command.
"""


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line; a command's own options when the command is parsed."""
    parser = argparse.ArgumentParser(
        prog="vggish-hf",
        description=vggish_hf.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vggish-hf {vggish_hf.__version__}")
    add_commands(parser, COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; without it, those of the process.

    Returns:
        The exit code: 0, 1 where some inputs failed, 2 for a usage error, 130 after an interrupt,
        141 if the output's reader has closed it (`| head`), 143 after SIGTERM if a command
        handles it.
    """
    open_missing_streams()
    if argv is None:
        keep_going_without_listeners()
    parser = make_parser()
    code: int = _UNREAD
    try:
        args, rest = parser.parse_known_args(argv)
        if "rest" in args:
            args.rest = rest
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if argv is None:
            # Imports live as long as this process: searching them for garbage again and again
            # takes longer than embedding a short clip.
            gc.freeze()
        with naming_flags(_flags(parser)):
            code = args.run(args)
        sys.stdout.flush()
    except SystemExit:
        flush_output()
        raise
    except KeyboardInterrupt as interrupt:
        say("vggish-hf: interrupted", sys.stderr)
        return getattr(interrupt, "exit_code", 128 + signal.SIGINT)
    except _user_errors() as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            discard_output()
            return code
        message = " ".join([f"vggish-hf: error: {error}", *getattr(error, "__notes__", ())])
        say("\n".join(map(printable, message.split("\n"))), sys.stderr)
        flush_output()
        return 2
    return code


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    flags = flags_of(parser)
    others = {name: flags[option] for name, option in _OPTIONS.items() if option in flags}
    return flags | others


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that a user's input may raise; called after an error."""
    errors: tuple[type[Exception], ...] = (ValueError, OSError, ImportError)
    if "vggish_hf.audio" in sys.modules:
        from vggish_hf.audio import DecoderStartError

        errors += (DecoderStartError,)
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.errors import HfHubHTTPError

        # The base of the Hub's errors and of a lost connection, in whichever library it uses.
        errors += (HfHubHTTPError.__bases__[0],)
    return errors
