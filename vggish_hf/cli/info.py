"""`vggish-hf info`: what a model is."""

import argparse
import json

from vggish_hf.pipeline import VGGishPipeline


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "info",
        help="describe a model",
        description="Load a model strictly and describe it, as JSON.",
        epilog="example: vggish-hf info google",
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id, local folder, or google")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    pipeline = VGGishPipeline.from_pretrained(args.model, revision=args.revision)
    description = pipeline.provenance("none")
    del description["postprocess"], description["dtype"]
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    print(json.dumps({**description, "parameters": parameters}, indent=2))
    return 0
