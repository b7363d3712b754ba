"""Options that several commands share."""

import argparse
from typing import Any

import torch

from vggish_hf.pipeline import VGGishPipeline

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, `--revision`, `--device` and `--dtype`."""
    parser.add_argument(
        "--model",
        default="google",
        metavar="ID",
        help="Hub id, local folder, or google for the published checkpoint (default: %(default)s)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="precision of the network"
    )


def check_device(name: str) -> None:
    """Raise ValueError unless this machine has such a device."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a device of this machine, got {name!r}: {error}") from None


def load_pipeline(args: argparse.Namespace, **settings: Any) -> VGGishPipeline:
    """Load the pipeline that the options of `add_model_options` name.

    Raises:
        ValueError: There is no such device.
    """
    check_device(args.device)
    return VGGishPipeline.from_pretrained(
        args.model,
        device=args.device,
        dtype=DTYPES[args.dtype],
        revision=args.revision,
        **settings,
    )
