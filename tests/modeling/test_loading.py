"""Strict loading: every tensor by name and shape, or an error that lists what differs."""

import stat

import pytest
import safetensors.torch
import torch
from limits import files_of_at_most, umask
from packaging.version import Version

from vggish_hf import VGGishConfig, VGGishModel
from vggish_hf.modeling.loading import compare_state_dicts, load_strictly, save_tensors

SMALL = VGGishConfig(
    conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, embedding_size=8, postprocessor=True
)


@pytest.fixture
def folder(tmp_path):
    """A saved model."""
    torch.manual_seed(0)
    VGGishModel(SMALL).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def change(folder):
    """Edit the saved tensors; returns the lines of the error that loading them raises."""

    def edit(tensors_in_place):
        path = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors_in_place(tensors)
        path.unlink()
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(ValueError, match="to hold exactly the config's tensors") as error:
            VGGishModel.from_pretrained(folder)
        first, *lines = str(error.value).splitlines()
        assert repr(str(path)) in first
        return [line.split(maxsplit=1) for line in lines]

    return edit


def test_a_missing_tensor(change):
    assert change(lambda t: t.pop("conv3_2.weight")) == [
        ["missing", "conv3_2.weight: expected (8, 8, 3, 3)"]
    ]


def test_a_renamed_tensor(change):
    assert change(lambda t: t.update(fc3=t.pop("fc2.bias"))) == [
        ["missing", "fc2.bias: expected (8,)"],
        ["unexpected", "fc3: found (8,)"],
    ]


def test_a_misshapen_tensor(change):
    assert change(lambda t: t.update({"fc2.weight": t["fc2.weight"].reshape(16, 8)})) == [
        ["misshapen", "fc2.weight: expected (8, 16), found (16, 8)"]
    ]


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_a_tensor_that_the_network_cannot_compute_with(dtype, change):
    if dtype.is_complex and Version(safetensors.__version__) < Version("0.7"):
        pytest.skip("this safetensors has no complex numbers")
    assert change(lambda t: t.update({"fc2.weight": t["fc2.weight"].to(dtype)})) == [
        ["mistyped", f"fc2.weight: expected (8, 16) of float, found (8, 16) of {dtype}"]
    ]


def test_a_missing_postprocessor(change):
    def drop(tensors):
        del tensors["postprocessor.eigenvectors"], tensors["postprocessor.means"]

    assert change(drop) == [
        ["missing", "postprocessor.eigenvectors: expected (8, 8)"],
        ["missing", "postprocessor.means: expected (8,)"],
    ]


def test_every_tensor_of_another_model_is_listed(change, folder):
    def replace(tensors):
        tensors.clear()
        tensors.update({f"layers.{i}": torch.zeros(i, 2) for i in range(1, 31)})

    lines = change(replace)
    model = VGGishModel(SMALL)
    missing = [text for kind, text in lines if kind == "missing"]
    assert missing == [f"{k}: expected {tuple(v.shape)}" for k, v in model.state_dict().items()]
    unexpected = {text for kind, text in lines if kind == "unexpected"}
    assert unexpected == {f"layers.{i}: found ({i}, 2)" for i in range(1, 31)}
    assert len(lines) == 20 + 30


def test_equal_state_dicts_have_no_problems():
    tensors = VGGishModel(SMALL).state_dict()
    assert compare_state_dicts(tensors, {k: v.bfloat16() for k, v in tensors.items()}) == []


def test_nothing_stays_on_meta(folder):
    with torch.device("meta"):
        model = VGGishModel(SMALL)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    load_strictly(model, folder / "model.safetensors")
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:4],
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"\x00",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'"F32"', b'"F99"', 1),
        lambda content: b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
    ],
)
def test_a_damaged_file(damage, folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(content))
    with pytest.raises(ValueError, match=r"^Expected a safetensors file, got '.*': ") as error:
        VGGishModel.from_pretrained(folder)
    assert "\n" not in str(error.value)


class TestSaving:
    @pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
    def test_mode_follows_the_umask(self, mask, tmp_path):
        with umask(mask):
            save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
        mode = stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode)
        assert mode == 0o666 & ~mask

    def test_any_memory_layout(self, tmp_path):
        tensors = {"a": torch.arange(6.0).reshape(2, 3).mT, "b": torch.ones(1).expand(4)}
        save_tensors(tensors, tmp_path / "a.safetensors")
        loaded = safetensors.torch.load_file(tmp_path / "a.safetensors")
        assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)

    def test_a_full_disk_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "a.safetensors"
        save_tensors({"a": torch.zeros(2)}, path)
        before = path.read_bytes()
        with files_of_at_most(100_000), pytest.raises(OSError, match="cannot be written"):
            save_tensors({"a": torch.zeros(1_000_000)}, path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
