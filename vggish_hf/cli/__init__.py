"""The command line, `vggish-hf`: each command is a few lines over the library."""

import argparse
import gc
import signal
import sys
from collections.abc import Sequence

from huggingface_hub.errors import HfHubHTTPError

import vggish_hf
from vggish_hf.audio import DecoderStartError
from vggish_hf.cli import audioset, convert, demo, embed, fad, info, predict, push, train

# The base of the Hub's errors and of a lost connection, in whichever library huggingface_hub uses.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

_EPILOG = """\
examples:
  vggish-hf embed music/ -o music.parquet
  vggish-hf convert vggish_model.ckpt --pca vggish_pca_params.npz -o vggish/
  vggish-hf embed clip.wav --model vggish/ --postprocess uint8 -o clip.npz
  vggish-hf train --config demo --data.source sounds/ --output mine/

`vggish-hf COMMAND --help` tells more of each command.
"""


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="vggish-hf",
        description=vggish_hf.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vggish-hf {vggish_hf.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (embed, convert, info, push, audioset, train, predict, fad, demo):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; without it, those of the process.

    Returns:
        The exit code: 0, 1 where some inputs failed, 2 for a usage error, 130 after an interrupt,
        143 after SIGTERM where a command handles it.
    """
    if argv is None:
        # What is imported lives as long as this process: to search all of it for garbage again and
        # again, and once more at the end, takes longer than to embed a short clip.
        gc.freeze()
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if "rest" in args:
        args.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code: int = args.run(args)
    except KeyboardInterrupt as interrupt:
        print("vggish-hf: interrupted", file=sys.stderr)
        return getattr(interrupt, "exit_code", 128 + signal.SIGINT)
    except (ValueError, OSError, ImportError, DecoderStartError, _HTTP_ERROR) as error:
        print(f"vggish-hf: error: {error}", *getattr(error, "__notes__", ()), file=sys.stderr)
        return 2
    return code
