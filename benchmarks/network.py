"""The network alone: examples a second, ours beside other libraries and the machine's limit.

The limit is the best of large products of matrices and large convolutions, in the same rounds.
Every library has as many threads as torch. A turn is as many calls as embed 32 examples. Errors are
of the embeddings of real sounds, relative to the same network in float64; random weights magnify
them, beside trained ones as of `demo`.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import _peers, describe_machine
from benchmarks._materials import make_examples, make_model
from benchmarks._timing import Spread, alternate, draw, ratio, save, spread
from vggish_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel, VGGishPipeline

BATCHES = (1, 8, 32, 128)
TURN = 32  # examples, in as many calls as it takes
SECONDS = {torch.float32: 18.0, torch.bfloat16: 10.0}  # for each batch
OURS = "vggish-hf"
EXACT = torch.float64

# (in and out channels, frames, bands, batch)
CONVOLUTIONS = ((512, 24, 16, 8), (256, 24, 16, 32), (128, 48, 32, 8))
MATRIX = 4096


def network_flops(config: VGGishConfig) -> int:
    """Floating-point operations for an example: two for each product of a weight and a value."""
    products = 0
    height, width, channels = config.num_frames, config.num_mel_bins, 1
    for wide, is_pooled in zip(config.conv_channels, _peers.CONVOLUTIONS.values(), strict=True):
        products += height * width * 9 * channels * wide
        channels = wide
        if is_pooled:
            height, width = height // 2, width // 2
    sizes = (config.flat_size, config.hidden_size, config.hidden_size, config.embedding_size)
    products += sum(wide * narrow for wide, narrow in itertools.pairwise(sizes))
    return 2 * products


def limits(dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], int]]:
    """Large operations of torch, by name, and the floating-point operations of each."""
    found: dict[str, tuple[Callable[[], object], int]] = {}
    left, right = torch.randn(1024, MATRIX, dtype=dtype), torch.randn(MATRIX, MATRIX, dtype=dtype)
    found["matmul"] = (partial(torch.mm, left, right), 2 * 1024 * MATRIX**2)
    for channels, height, width, batch in CONVOLUTIONS:
        shape = (batch, channels, height, width)
        x = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype)
        flops = 2 * math.prod(shape) * channels * 9
        name = f"convolution {channels} {height}x{width} batch {batch}"
        last = weight.contiguous(memory_format=torch.channels_last)
        found[name] = (partial(F.conv2d, x, last, padding=1), flops)
        if torch.backends.mkldnn.is_available():
            # The weight in the order that oneDNN would choose for itself.
            packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
                weight.to_mkldnn(), [1, 1], [1, 1], [1, 1], 1, list(shape)
            )
            ones = [[1, 1]] * 3
            run = partial(
                torch.ops.mkldnn._convolution_pointwise, x, packed, None, *ones, 1, "none", [], ""
            )
            found[f"{name}, packed"] = (run, flops)
    return found


def contestants(model: VGGishModel, dtype: torch.dtype, threads: int) -> dict[str, _peers.Embed]:
    """Ours, and the others of this precision."""
    ours = VGGishPipeline(VGGishFeatureExtractor(), copy.deepcopy(model).to(dtype)).embed_examples
    others: dict[str, _peers.Embed] = {"torch, as ports write it": _peers.port(model, dtype)}
    hint = "f32" if dtype == torch.float32 else "bf16"
    others["OpenVINO"] = _peers.openvino(model, threads, hint)
    if dtype == torch.float32:
        others["ONNX Runtime"] = _peers.onnx_runtime(model, threads)
        others["TensorFlow"] = _peers.tensorflow(model, threads)
    return {OURS: ours, **others}


@torch.inference_mode()
def measure(
    networks: dict[str, _peers.Embed], examples: Tensor, dtype: torch.dtype, flops: int
) -> tuple[dict[str, Spread], Spread, dict[str, Spread], dict[str, Spread], str]:
    """Return examples a second, the limit's, ours over each, shares of the limit, and its name."""
    bounds = limits(dtype)
    calls = max(TURN // len(examples), 1)
    runs = {name: partial(embed, examples) for name, embed in networks.items()}
    runs |= {name: run for name, (run, _) in bounds.items()}
    seconds = alternate(runs, SECONDS[dtype], dict.fromkeys(networks, calls))
    # Seconds for the work of an example.
    per_example = {
        name: [time / len(examples) for time in seconds[name]]
        if name in networks
        else [time * flops / bounds[name][1] for time in seconds[name]]
        for name in runs
    }
    print(f"\n{len(seconds[OURS])} rounds of {calls} calls", end="")
    best = min(bounds, key=lambda name: spread(per_example[name]).median)
    rates = {name: rate(times) for name, times in per_example.items()}
    ahead = {name: ratio(per_example[name], per_example[OURS]) for name in networks}
    shares = {name: ratio(per_example[best], per_example[name]) for name in networks}
    return {name: rates[name] for name in networks}, rates[best], ahead, shares, best


def rate(times: Sequence[float]) -> Spread:
    """How many of what takes so long are done in a second."""
    return spread([1 / time for time in times])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    return float((found.double() - expected).norm() / expected.norm())


def steps_apart(model: VGGishModel, found: Tensor, expected: Tensor) -> str:
    """Which share of the uint8 values differ, and how many steps at most."""
    process = model.postprocessor
    values = [process.quantize(process(rows.double())).int() for rows in (found, expected)]
    apart = (values[0] - values[1]).abs()
    return f"{(apart > 0).double().mean():.2%}, by {apart.max()} at most"


def demo_error(examples: Tensor, dtype: torch.dtype) -> float:
    """The relative error of the small trained network."""
    pipelines = [VGGishPipeline.from_pretrained("demo", dtype=each) for each in (dtype, EXACT)]
    found, expected = [pipeline.embed_examples(examples) for pipeline in pipelines]
    return relative_error(found, expected)


def main() -> None:
    """Print the tables, write them and draw them."""
    threads = torch.get_num_threads()
    model = make_model()
    flops = network_flops(model.config)
    modules = [import_module(name) for name in ("onnxruntime", "openvino")]
    modules.append(_peers.import_tensorflow(threads))
    machine = describe_machine("python -m benchmarks network", torch, *modules)
    print(f"{machine}\nthreads of each: {threads}; {flops / 1e9:.4f} GFLOP an example")
    examples = make_examples(max(BATCHES))
    with torch.inference_mode():
        exact = copy.deepcopy(model).to(EXACT)(examples.to(EXACT))
        plain = model(examples)
    results = {"machine": machine, "threads": threads, "flops": flops}
    for dtype in SECONDS:
        precision = str(dtype).removeprefix("torch.")
        networks = contestants(model, dtype, threads)
        groups, tops = {}, {}
        for batch in BATCHES:
            measured = measure(networks, examples[:batch], dtype, flops)
            speeds, limit, ahead, shares, best = measured
            print(f", {precision}, batch {batch}: limit {limit.median:.0f}/s ({best})")
            print(f"{'':26}{'examples/s':>10}{'ours over it':>20}{'share of limit':>20}")
            for name, speed in speeds.items():
                print(f"{name:26}{speed.median:10.1f}{ahead[name]!s:>20}{shares[name]!s:>20}")
            groups[f"batch {batch}"], tops[f"batch {batch}"] = speeds, limit.median
            results[f"{precision}, batch {batch}"] = measured
        print(f"\n{precision}, relative error of the embeddings")
        for name, embed in networks.items():
            with torch.inference_mode():
                found = embed(examples)
            error, steps = relative_error(found, exact), steps_apart(model, found, plain)
            print(f"{name:26}{error:10.1e}   uint8 values that differ: {steps}")
            results[f"{precision}, relative error, {name}"] = (error, steps)
        error = demo_error(examples, dtype)
        print(f"{'vggish-hf, network demo':26}{error:10.1e}")
        results[f"{precision}, relative error, demo"] = error
        title = f"The network in {precision}, threads: {threads}; more is better"
        draw(f"network-{precision}", title, "examples a second", groups, tops)
    save("network", results)


if __name__ == "__main__":
    main()
