"""The module embeds as the pipeline does, and nothing changes its numbers behind its back."""

import pytest
import torch
from folders import TESTS

pl = pytest.importorskip("lightning.pytorch")

from vggish_hf import VGGishPipeline  # noqa: E402
from vggish_hf.lightning import AudioFilesDataModule, VGGishEmbedder  # noqa: E402

pytestmark = [
    # Lightning's own, with torch 2.11
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # of small data, on machines of many cores
    pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers"),
]

AUDIO = TESTS / "data" / "audio_cases"
SPEECH = str(AUDIO / "librosa__198-209-0000.ogg")
# Batches of other sizes add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def predict(module, *paths, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        **options,
    )
    return trainer.predict(module, AudioFilesDataModule(paths, batch_size=5, num_workers=0))


@pytest.mark.parametrize("postprocess", ["none", "pca", "uint8"])
@pytest.mark.parametrize("hop", [0.96, pytest.param(0.48, marks=pytest.mark.slow)])
def test_it_embeds_as_the_pipeline(small_model_folder, postprocess, hop):
    pipe = VGGishPipeline.from_pretrained(small_model_folder, example_hop_seconds=hop)
    module = VGGishEmbedder(pipe, postprocess=postprocess)
    expected = pipe(SPEECH, postprocess=postprocess)
    predictions = predict(module, SPEECH, str(AUDIO / "jiaaro__test1_empty.wav"))
    embedding = torch.cat([prediction["embedding"] for prediction in predictions])
    assert embedding.dtype == expected.embeddings.dtype
    if postprocess == "uint8":
        difference = embedding.int() - expected.embeddings.int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.01
    else:
        assert torch.allclose(embedding, expected.embeddings, **TOLERANCE)
    times = torch.cat([prediction["start_seconds"] for prediction in predictions])
    assert times.dtype == torch.float64
    assert times.tolist() == expected.start_seconds.tolist()
    assert [prediction["is_last"] for prediction in predictions][-1] == [True]
    assert [*predictions[-1]["failed"]] == [
        (str(AUDIO / "jiaaro__test1_empty.wav"), "it holds no samples")
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_the_pipeline_s(small_model_folder, dtype):
    pipe = VGGishPipeline.from_pretrained(small_model_folder, dtype=dtype)
    (first, *_) = predict(VGGishEmbedder(pipe), SPEECH)
    expected = pipe(SPEECH, batch_size=5).embeddings[:5]
    assert first["embedding"].dtype == expected.dtype
    assert torch.equal(first["embedding"], expected)


def test_a_true_precision_is_in_the_provenance(small_model_folder):
    module = VGGishEmbedder(small_model_folder)
    assert module.provenance()["dtype"] == "float32"
    predict(module, SPEECH, precision="bf16-true")
    assert module.provenance()["dtype"] == "bfloat16"


def test_several_loaders(small_model_folder):
    class Two(AudioFilesDataModule):
        def predict_dataloader(self):
            return [super(Two, self).predict_dataloader() for _ in range(2)]

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    first, second = trainer.predict(
        VGGishEmbedder(small_model_folder), Two([SPEECH], batch_size=99, num_workers=0)
    )
    assert torch.equal(first[0]["embedding"], second[0]["embedding"])


def test_a_model_id(small_model_folder):
    module = VGGishEmbedder(small_model_folder, postprocess="pca")
    expected = VGGishPipeline.from_pretrained(small_model_folder)
    assert module.provenance() == expected.provenance("pca")
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in expected.model.parameters()
    )


def test_it_refuses_what_would_change_the_numbers(small_model_folder, tmp_path):
    module = VGGishEmbedder(small_model_folder)
    with pytest.raises(ValueError, match="ends in '-true', got 'bf16-mixed'; load the pipeline"):
        predict(module, SPEECH, precision="bf16-mixed")
    torch.save({"state_dict": {}, "pytorch-lightning_version": pl.__version__}, tmp_path / "a.ckpt")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data = AudioFilesDataModule([SPEECH], num_workers=0)
    with pytest.raises(ValueError, match="Expected no `ckpt_path`"):
        trainer.predict(module, data, ckpt_path=tmp_path / "a.ckpt")


def test_postprocess_is_checked(tiny_model_folder):
    with pytest.raises(ValueError, match="postprocess='uint8' needs a model with a post-processor"):
        VGGishEmbedder(tiny_model_folder, postprocess="uint8")
    with pytest.raises(ValueError, match="got 'int8'"):
        VGGishEmbedder(tiny_model_folder, postprocess="int8")
