"""Whether a network of eight bits pays: how fast ONNX Runtime's is, and how wrong.

Quantised after training: weights by channel, activations by their range over other real sounds than
those that are measured, the last layer too. This package has none; the figures say why.
"""

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import _peers, describe_machine
from benchmarks._materials import make_examples, make_model
from benchmarks._timing import alternate, ratio, save, spread
from benchmarks.network import relative_error, steps_apart
from vggish_hf import VGGishFeatureExtractor, VGGishModel, VGGishPipeline

BATCH = 32
MEASURED = 128  # examples
CALIBRATION = 256  # examples behind those
SECONDS = 15.0


def quantised(model: VGGishModel, examples: Tensor, threads: int) -> _peers.Embed:
    """ONNX Runtime with eight bits, ranges of these examples."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(examples.split(BATCH))

        def get_next(self) -> Any:
            batch = next(self._batches, None)
            return None if batch is None else {_peers.ONNX_INPUT: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        whole, ready, small = (Path(folder, f"{name}.onnx") for name in ("whole", "ready", "small"))
        _peers.export_onnx(model, whole)
        # Constants are folded and operators fused first, as its authors recommend.
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        quantize_static(ready, small, Reader(), per_channel=True)
        return _peers.onnx_session(small, threads)


def main() -> None:
    """Print the table and write it."""
    import onnxruntime

    threads = torch.get_num_threads()
    machine = describe_machine("python -m benchmarks eight_bits", torch, onnxruntime)
    print(f"{machine}\nthreads of each: {threads}; batch {BATCH}\n")
    examples = make_examples(MEASURED + CALIBRATION)
    measured, others = examples.split((MEASURED, CALIBRATION))
    models = {"full size": make_model(), "demo": VGGishModel.from_pretrained("demo")}
    results: dict[str, Any] = {"machine": machine, "threads": threads}
    for name, model in models.items():
        networks: dict[str, _peers.Embed] = {
            str(dtype).removeprefix("torch."): VGGishPipeline(
                VGGishFeatureExtractor(), copy.deepcopy(model).to(dtype)
            ).embed_examples
            for dtype in (torch.float32, torch.bfloat16)
        }
        networks["ONNX Runtime, 8 bits"] = quantised(model, others, threads)
        with torch.inference_mode():
            exact = copy.deepcopy(model).double()(measured.double())
        batch = measured[:BATCH]
        seconds = alternate({key: partial(run, batch) for key, run in networks.items()}, SECONDS)
        print(f"{name:22}{'examples/s':>10}{'over float32':>20}{'relative error':>16}")
        for key, embed in networks.items():
            speed = spread([BATCH / time for time in seconds[key]])
            faster = ratio(seconds["float32"], seconds[key])
            found = embed(measured)
            error = relative_error(found, exact)
            line = f"{key:22}{speed.median:10.0f}{faster!s:>20}{error:16.1e}"
            if model.postprocessor is not None:
                line += f"   uint8 values that differ: {steps_apart(model, found, exact)}"
            print(line, flush=True)
            results[f"{name}, {key}"] = (speed, faster, error)
        print()
    save("eight_bits", results)


if __name__ == "__main__":
    main()
