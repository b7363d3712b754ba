"""`vggish-hf convert`: a checkpoint of another implementation in, a model folder out."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from vggish_hf.cli._options import printable, say
from vggish_hf.configuration import Activation
from vggish_hf.conversion import convert_checkpoint, convert_google, save_converted
from vggish_hf.conversion.convert import check_new_folder

_EPILOG = """\
The content of SOURCE decides its kind: a TensorFlow V1 or V2 checkpoint, torchvggish's .pth or
torchaudio's .pt; their tensors in a safetensors file, or a folder with model.safetensors or
pytorch_model.bin.
`google` fetches the published checkpoint and its PCA and verifies both.

examples:
  vggish-hf convert google -o vggish/
  vggish-hf convert vggish_model.ckpt --pca vggish_pca_params.npz -o vggish/
  vggish-hf convert vggish-10086976.pth --pca vggish_pca_params-970ea276.pth -o vggish/
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "convert",
        help="make a model folder of a checkpoint",
        description="Convert a checkpoint of any implementation to config.json and "
        "model.safetensors, without TensorFlow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="the checkpoint, or google")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--force", action="store_true", help="replace the model in a folder that is not empty"
    )
    parser.add_argument("--pca", metavar="FILE", help="the post-processor's .npz or .pth")
    parser.add_argument(
        "--embedding-activation",
        choices=get_args(Activation),
        help="after the last layer: none as in the original, relu as in the torch ports",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if not args.force:
        check_new_folder(args.output, "--force")
    activation: Activation = args.embedding_activation or "none"
    if args.source == "google":
        if args.pca:
            raise ValueError("Expected no --pca with google, which brings its own")
        converted = convert_google(activation)
    else:
        converted = convert_checkpoint(args.source, pca=args.pca, embedding_activation=activation)
    save_converted(converted, args.output, overwrite=args.force)
    for line in converted.left_out:
        say(f"skipped: {printable(line)}")
    if converted.origin in ("torchvggish", "torchaudio") and args.embedding_activation is None:
        say(
            f"warning: {converted.origin} applies a ReLU to the embeddings, which the original "
            "does not; converted without it. Choose with --embedding-activation none or relu.",
            sys.stderr,
        )
    config = converted.model.config
    pca = "with" if config.postprocessor else "without"
    sizes = f"{config.embedding_size}-d embeddings, {pca} post-processor"
    say(f"{converted.origin} checkpoint, {sizes}, in {args.output}")
    return 0
