"""The same network in other libraries: functions from log-mel examples to embeddings."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vggish_hf import VGGishModel

Embed = Callable[[Tensor], Tensor]

# What follows each convolution beside the ReLU.
CONVOLUTIONS = {
    "conv1": True,
    "conv2": True,
    "conv3_1": False,
    "conv3_2": True,
    "conv4_1": False,
    "conv4_2": True,
}
LINEAR = ("fc1_1", "fc1_2", "fc2")
ONNX_INPUT = "examples"


def port(model: VGGishModel, dtype: torch.dtype = torch.float32) -> Embed:
    """The network as the older ports write it; of sixteen bits, with channels last."""
    trunk, head = nn.Sequential(), nn.Sequential()
    for name, is_pooled in CONVOLUTIONS.items():
        ours = getattr(model, name)
        layer = nn.Conv2d(ours.in_channels, ours.out_channels, 3, padding=1)
        layer.load_state_dict(ours.state_dict())
        trunk.extend([layer, nn.ReLU(inplace=True), *([nn.MaxPool2d(2)] if is_pooled else [])])
    for name in LINEAR:
        ours = getattr(model, name)
        layer = nn.Linear(ours.in_features, ours.out_features)
        layer.load_state_dict(ours.state_dict())
        head.extend([layer, *([] if name == "fc2" else [nn.ReLU(inplace=True)])])
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    trunk.to(dtype=dtype, memory_format=layout)
    head.to(dtype)

    @torch.no_grad()
    def embed(examples: Tensor) -> Tensor:
        x = trunk(examples[:, None].to(dtype).contiguous(memory_format=layout))
        return head(x.permute(0, 2, 3, 1).flatten(1)).float()

    return embed


def onnx_runtime(model: VGGishModel, threads: int) -> Embed:
    """ONNX Runtime, from an export of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vggish.onnx")
        export_onnx(model, path)
        return onnx_session(path, threads)


def export_onnx(model: VGGishModel, path: Path) -> None:
    """Write the network, for batches of any size, into one file."""
    example = (torch.zeros(2, model.config.num_frames, model.config.num_mel_bins),)
    torch.onnx.export(
        model,
        example,
        path,
        input_names=[ONNX_INPUT],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def onnx_session(path: Path, threads: int) -> Embed:
    """Load a network that `export_onnx` wrote."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda examples: torch.from_numpy(session.run(None, {ONNX_INPUT: examples.numpy()})[0])


def openvino(model: VGGishModel, threads: int, precision: str = "f32") -> Embed:
    """OpenVINO, from an export of ours; `precision` is its hint, "f32" or "bf16"."""
    import openvino

    shape = (-1, model.config.num_frames, model.config.num_mel_bins)
    converted = openvino.convert_model(
        _Forward(model), example_input=torch.zeros(2, *shape[1:]), input=[shape]
    )
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    return lambda examples: torch.from_numpy(request.infer([examples.numpy()])[0])


class _Forward(nn.Module):
    """The network without its other methods, which OpenVINO would trace too."""

    def __init__(self, model: VGGishModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, examples: Tensor) -> Tensor:
        return self.model(examples)


def import_tensorflow(threads: int) -> Any:
    """TensorFlow, told of its threads, which it must be before its first operation."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def tensorflow(model: VGGishModel, threads: int) -> Embed:
    """Keras layers with our weights, channels last, as one function of a graph."""
    tf = import_tensorflow(threads)
    layers = tf.keras.layers
    sizes = (model.config.num_frames, model.config.num_mel_bins)
    network = tf.keras.Sequential([tf.keras.Input((*sizes, 1))])
    weights = []
    for name, is_pooled in CONVOLUTIONS.items():
        ours = getattr(model, name)
        network.add(layers.Conv2D(ours.out_channels, 3, padding="same", activation="relu"))
        if is_pooled:
            network.add(layers.MaxPool2D(2))
        weights += [ours.weight.permute(2, 3, 1, 0), ours.bias]
    network.add(layers.Flatten())
    for name in LINEAR:
        ours = getattr(model, name)
        network.add(layers.Dense(ours.out_features, activation=None if name == "fc2" else "relu"))
        weights += [ours.weight.T, ours.bias]
    network.set_weights([weight.detach().numpy() for weight in weights])
    signature = [tf.TensorSpec((None, *sizes, 1), tf.float32)]
    graph = tf.function(lambda x: network(x, training=False), input_signature=signature)
    return lambda examples: torch.from_numpy(graph(examples.numpy()[..., None]).numpy())
