import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from vggish_hf import VGGishOutput


@pytest.fixture
def output(generator):
    embeddings = torch.randn(11, 128, generator=generator)
    return VGGishOutput(embeddings, 0.96 * torch.arange(11, dtype=torch.float64), index=3)


@pytest.fixture
def empty():
    return VGGishOutput(torch.empty(0, 128), torch.empty(0, dtype=torch.float64))


def test_its_length_is_the_number_of_examples(output, empty):
    assert (len(output), len(empty)) == (11, 0)
    assert output.end_seconds == pytest.approx(10 * 0.96 + 0.96)
    assert empty.end_seconds == 0


def test_it_shows_shapes_and_no_numbers(output, empty):
    shown = "VGGishOutput(embeddings: (11, 128) float32, seconds: 0 to 10.56, index: 3)"
    assert repr(output) == shown
    assert repr(empty) == "VGGishOutput(embeddings: (0, 128) float32, seconds: 0 to 0, index: 0)"


@pytest.mark.parametrize("count", [1, 2, 11])
def test_pooling(output, count):
    part = VGGishOutput(output.embeddings[:count], output.start_seconds[:count])
    rows = part.embeddings.numpy().astype(np.float64)
    expected = {
        "mean": rows.mean(0),
        "max": rows.max(0),
        "mean_std": np.concatenate([rows.mean(0), rows.std(0)]),
    }
    for how, row in expected.items():
        pooled = part.pool(how)
        assert pooled.dtype == torch.float32
        assert np.allclose(pooled, row, rtol=1e-6, atol=1e-7)
    assert torch.equal(part.mean(), part.pool("mean"))


@pytest.mark.parametrize("how", ["mean", "max", "mean_std"])
def test_eight_bits_are_not_pooled(output, how):
    quantized = VGGishOutput(output.embeddings.to(torch.uint8), output.start_seconds)
    with pytest.raises(ValueError, match=r"floats for `pool`, got torch\.uint8; dequantize"):
        quantized.pool(how)


def test_float64_stays(output):
    assert VGGishOutput(output.embeddings.double(), output.start_seconds).mean().dtype == (
        torch.float64
    )


@pytest.mark.parametrize("how", ["mean", "max", "mean_std"])
def test_nothing_to_pool_is_an_error(empty, how):
    with pytest.raises(ValueError, match=r"one example to pool, got none.*padding='short'"):
        empty.pool(how)


def test_there_is_no_other_pooling(output):
    with pytest.raises(ValueError, match="one of 'mean', 'max', 'mean_std', got 'min'"):
        output.pool("min")


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_plain_columns(output, dtype):
    out = VGGishOutput(output.embeddings.to(dtype), output.start_seconds)
    columns = json.loads(json.dumps(out.to_dict()))
    assert list(columns) == ["example", "start_seconds", "embedding"]
    assert columns["example"] == list(range(11))
    assert columns["start_seconds"] == output.start_seconds.tolist()
    assert torch.equal(torch.tensor(columns["embedding"]).to(dtype), out.embeddings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_table(output, empty, dtype):
    pytest.importorskip("pandas")
    out = VGGishOutput(output.embeddings.to(dtype), output.start_seconds)
    table = out.to_pandas()
    assert list(table.columns) == ["example", "start_seconds", "embedding"]
    assert table["start_seconds"].tolist() == output.start_seconds.tolist()
    matrix = np.stack(table["embedding"])
    assert torch.equal(torch.from_numpy(matrix), out.embeddings)
    assert empty.to_pandas().shape == (0, 3)


@pytest.mark.slow
def test_a_table_needs_pandas():
    code = (
        "import sys; sys.modules['pandas'] = None; import torch, vggish_hf;"
        "vggish_hf.VGGishOutput(torch.zeros(1, 2), torch.zeros(1)).to_pandas()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = "ImportError: `to_pandas` needs pandas: pip install pandas"
    assert done.stderr.splitlines()[-1] == message
