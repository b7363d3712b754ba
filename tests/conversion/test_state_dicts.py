"""Names and layouts of the other implementations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.conversion.state_dicts import (
    LAYERS,
    NAMES,
    check_dimensions,
    from_tensorflow,
    from_torch,
    infer_config,
    recognize,
)

SMALL = VGGishConfig(conv_channels=(4, 5, 6, 7, 8, 9), hidden_size=16, embedding_size=3)


@pytest.fixture
def shapes():
    with torch.device("meta"):
        model = VGGishModel(SMALL)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_every_table_covers_the_network(shapes):
    for table in NAMES.values():
        assert list(table.values()) == list(shapes)


def test_names_of_the_original():
    assert LAYERS == (
        "conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "fc1_1", "fc1_2", "fc2",
    )  # fmt: skip
    names = {ours: theirs for theirs, ours in NAMES["tensorflow"].items()}
    assert names["conv1.weight"] == "vggish/conv1/weights"
    assert names["conv4_2.bias"] == "vggish/conv4/conv4_2/biases"
    assert names["fc1_1.weight"] == "vggish/fc1/fc1_1/weights"
    assert names["fc2.bias"] == "vggish/fc2/biases"


def test_names_of_the_ports():
    assert NAMES["torchvggish"]["features.13.bias"] == "conv4_2.bias"
    assert NAMES["torchvggish"]["embeddings.4.weight"] == "fc2.weight"
    assert NAMES["torchaudio"]["features_network.3.weight"] == "conv2.weight"
    assert NAMES["torchaudio"]["embedding_network.0.bias"] == "fc1_1.bias"


@pytest.mark.parametrize("origin", NAMES)
def test_recognize(origin):
    assert recognize(NAMES[origin]) == origin
    assert recognize([*NAMES[origin], "global_step", "features.99.weight"]) == origin


def test_what_is_missing_is_listed():
    names = set(NAMES["torchaudio"]) - {"features_network.3.weight", "embedding_network.4.bias"}
    expected = (
        "the nearest is torchaudio, of which features_network.3.weight, embedding_network.4.bias "
        r"are missing \(found: 'embedding_network.0.bias', .*, 8 more\)"
    )
    with pytest.raises(ValueError, match=expected):
        recognize(names)


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ([], r"\(found: nothing\)$"),
        (["b", "a"], r"\(found: 'a', 'b'\)$"),
        (["line\nbreak\x1b[31m"], r"\(found: 'line\\nbreak\\x1b\[31m'\)$"),
        (["a" * 1_000_000], rf"\(found: '{'a' * 60}'\)$"),
    ],
)
def test_what_is_found_is_listed_on_one_line(names, listed):
    with pytest.raises(ValueError, match=listed) as error:
        recognize(names)
    assert "\n" not in str(error.value)


def test_convolutions_are_transposed():
    # A filter of one tap: out channel 2 is in channel 1, shifted by a row.
    variable = np.zeros((3, 3, 2, 4), np.float32)
    variable[0, 1, 1, 2] = 1
    image = torch.arange(2.0 * 5 * 5).reshape(1, 2, 5, 5)
    out = F.conv2d(image, from_tensorflow(variable), padding=1)
    assert torch.equal(out[0, 2, 1:], image[0, 1, :-1])
    assert not out[0, [0, 1, 3]].any()


def test_linear_layers_are_transposed():
    variable = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert from_tensorflow(variable).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 3, 2, 4), (1, 1)])
def test_memory_of_its_own(shape, dtype):
    # As they come from a V1 checkpoint: a view, at an odd address, of a block of the file.
    block = np.random.Generator(np.random.PCG64(0)).bytes(2000)
    offset = 1 if dtype != np.float16 else 3
    count = int(np.prod(shape))
    variable = np.frombuffer(block, dtype, count, offset).reshape(shape)
    tensor = from_tensorflow(variable)
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % variable.itemsize == 0
    assert tensor.untyped_storage().nbytes() == variable.nbytes
    back = tensor.numpy().transpose({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[len(shape)])
    assert back.tobytes() == variable.tobytes()


@pytest.mark.parametrize("shape", [(), (1, 2, 3), (1, 1, 1, 1, 1)])
def test_other_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="Expected 1, 2 or 4 dimensions, got the shape"):
        from_tensorflow(np.zeros(shape, np.float32))


def test_torch_tensors_are_taken_apart():
    storage = torch.arange(12.0)
    shared = [storage[:6].reshape(2, 3).mT, torch.nn.Parameter(storage[3:])]
    for value in shared:
        tensor = from_torch(value)
        assert torch.equal(tensor, value)
        assert type(tensor) is torch.Tensor
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(1 << 50),
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
        np.zeros(2),
        [0.0, 0.0],
        "0",
        None,
    ],
    ids=["repeated", "meta", "sparse", "array", "list", "str", "none"],
)
def test_what_is_no_tensor_is_refused(value):
    with pytest.raises(ValueError, match="a dense tensor with all its values, got"):
        from_torch(value)


def test_dimensions(shapes):
    check_dimensions(shapes)
    check_dimensions({name: shape[::-1] for name, shape in shapes.items()})
    for name in shapes:
        for wrong in ((), (*shapes[name], 1), (0, *shapes[name][1:])):
            with pytest.raises(ValueError, match=rf"Expected {name} of \d dimensions, got the"):
                check_dimensions({**shapes, name: wrong})


@pytest.mark.parametrize("postprocessor", [False, True])
def test_sizes_are_inferred(shapes, postprocessor):
    config = infer_config(shapes, postprocessor=postprocessor)
    assert config.postprocessor is postprocessor
    assert config.conv_channels == SMALL.conv_channels
    assert (config.hidden_size, config.embedding_size) == (16, 3)
