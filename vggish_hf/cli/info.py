"""`vggish-hf info`: what a model is, and what runs it here."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from vggish_hf import hub
from vggish_hf._runtime.files import read_json
from vggish_hf.modeling import onednn
from vggish_hf.modeling.inference import why_not_packed
from vggish_hf.pipeline import VGGishPipeline

# A classifier's description in its config; the rest is about training.
_OF_A_CLASSIFIER = ("classifier_type", "task", "classes", "head", "postprocess", "embedding_size")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "info",
        help="describe a model, and what runs it on this machine",
        description="Load a model strictly and describe it, as JSON; a classifier by its config.",
        epilog="examples: vggish-hf info google; vggish-hf info --runtime",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="Hub id, local folder, google or demo"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--runtime",
        action="store_true",
        help="say by which path the network runs on this machine's CPU, and why",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.model is None and not args.runtime:
        raise ValueError("Expected a MODEL, --runtime or both")
    description: dict[str, Any] = {}
    pipeline = None
    if args.model is not None:
        folder = hub.find_folder(args.model, (hub.CONFIG_NAME,), revision=args.revision)
        config = read_json(folder / hub.CONFIG_NAME)
        if "classifier_type" in config:
            description = _classifier(args.model, config)
        else:
            pipeline = VGGishPipeline.from_pretrained(args.model, revision=args.revision)
            description = _model(pipeline)
    if args.runtime:
        description["runtime"] = _runtime(pipeline)
    print(json.dumps(description, indent=2))
    return 0


def _model(pipeline: VGGishPipeline) -> dict[str, Any]:
    description = pipeline.provenance("none")
    del description["postprocess"], description["dtype"]
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    return {**description, "parameters": parameters}


def _classifier(model_id: str | Path, config: dict[str, Any]) -> dict[str, Any]:
    known = {name: config.get(name) for name in _OF_A_CLASSIFIER}
    backbone = config.get("config")
    kind = "audio" if backbone is not None else "embeddings"
    return {"model": str(model_id), **known, "takes": kind, "config": backbone}


def _runtime(pipeline: VGGishPipeline | None) -> dict[str, Any]:
    path = onednn.describe()
    if pipeline is not None and (reason := why_not_packed(pipeline.model)) is not None:
        path = {"network": "plain", "reason": reason}
    operators = onednn.find_operators()
    dtypes = () if isinstance(operators, str) else operators.dtypes
    return {
        **path,
        "packed_dtypes": [str(dtype).removeprefix("torch.") for dtype in dtypes],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.is_available(),
    }
