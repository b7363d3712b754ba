"""`vggish-hf push`: a model folder to the Hub."""

import argparse
from pathlib import Path

from vggish_hf import hub
from vggish_hf._runtime.files import read_json
from vggish_hf.cli._options import say
from vggish_hf.pipeline import VGGishPipeline


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "push",
        help="upload a model folder to the Hub",
        description="Check that a model folder loads strictly, and upload its config.json, "
        "model.safetensors, preprocessor_config.json and README.md.",
        epilog="example: vggish-hf push vggish/ org/vggish",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what convert or train made")
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the repository; made if missing")
    parser.add_argument("--revision", help="branch to commit to (default: main)")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    _check(args.folder)
    say(
        hub.push_folder(
            args.folder, args.repo_id, revision=args.revision, private=args.private or None
        )
    )
    return 0


def _check(folder: Path) -> None:
    """Load the folder's model or classifier; raise an error if it is invalid."""
    config = hub.find_folder(folder, (hub.CONFIG_NAME,)) / hub.CONFIG_NAME
    if "classifier_type" in read_json(config):
        from vggish_hf.lightning import VGGishClassifier

        VGGishClassifier.from_pretrained(folder)
    else:
        VGGishPipeline.from_pretrained(folder)
