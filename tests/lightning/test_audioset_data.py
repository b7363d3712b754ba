import warnings
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from clip_sources import AUDIO, IDS, SPEECH, write_csv, write_folder
from folders import SHARED, TESTS

from vggish_hf import VGGishPipeline
from vggish_hf.audio import load_audio
from vggish_hf.audioset import (
    AudioSetLabels,
    RecordReader,
    embed_clips,
    export_clips,
    export_embeddings,
    parse_audioset,
)
from vggish_hf.lightning import VGGishClassifier
from vggish_hf.lightning.audioset_data import (
    AudioSetClipsDataModule,
    AudioSetEmbeddingsDataModule,
)

pytestmark = [
    # Lightning's own, with torch 2.11
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # of small data, on machines of many cores
    pytest.mark.filterwarnings("ignore:.*_dataloader' does not have many workers"),
    # a few clips have few of the 527 classes
    pytest.mark.filterwarnings("ignore:.* classes have no clip to learn from"),
]

RELEASED = TESTS / "data" / "audioset"
RECORDS = {
    split: {
        record.video_id: record
        for path in sorted((RELEASED / split).iterdir())
        for record in map(parse_audioset, RecordReader(path))
    }
    for split in ("bal_train", "eval")
}
OGG = AUDIO / "librosa__198-209-0000.ogg"  # 13.9 s, 22.05 kHz


@pytest.fixture(
    scope="module", params=["released", pytest.param("exported", marks=pytest.mark.slow)]
)
def source(request, tmp_path_factory):
    if request.param == "released":
        return RELEASED
    folder = tmp_path_factory.mktemp("exported")
    export_embeddings(RELEASED, folder)
    return folder


def ids(loader):
    return [name for batch in loader for name in batch["id"]]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_embeddings(source, tmp_path, num_workers):
    data = AudioSetEmbeddingsDataModule(
        source, source, batch_size=4, num_workers=num_workers, cache_dir=tmp_path
    )
    assert data.classes == [known.name for known in AudioSetLabels().classes]
    assert data.task == "multi_label"
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.val_dataloader() == []
    for loader, split in ((data.train_dataloader(), "bal_train"), (data.test_dataloader(), "eval")):
        records = RECORDS[split]
        batches = list(loader)
        assert sorted(ids(batches)) == sorted(records)
        for batch in batches:
            assert batch.keys() == {"id", "embedding", "mask", "target"}
            assert batch["embedding"].dtype == torch.uint8
            for i, name in enumerate(batch["id"]):
                rows = batch["embedding"][i][batch["mask"][i]]
                assert torch.equal(rows, torch.from_numpy(records[name].embedding))
                labels = batch["target"][i].nonzero().flatten().tolist()
                assert labels == sorted(records[name].labels)
    assert ids(data.train_dataloader()) != ids(data.train_dataloader())
    assert ids(data.test_dataloader()) == list(RECORDS["eval"])


def test_stages(tmp_path):
    data = AudioSetEmbeddingsDataModule(RELEASED, validation_fraction=0.3, cache_dir=tmp_path)
    data.setup("test")
    with pytest.raises(ValueError, match="this AudioSetEmbeddingsDataModule has none"):
        data.test_dataloader()
    data.setup("validate")
    train, validation = ids(data.train_dataloader()), ids(data.val_dataloader())
    assert sorted(train + validation) == sorted(RECORDS["bal_train"])
    assert len(validation) == 1  # a clip of each class stays
    again = AudioSetEmbeddingsDataModule(RELEASED, validation_fraction=0.3, cache_dir=tmp_path)
    again.setup("fit")
    assert ids(again.val_dataloader()) == validation


def test_classes_without_a_clip_are_named(tmp_path):
    data = AudioSetEmbeddingsDataModule(RELEASED, cache_dir=tmp_path)
    data.setup("fit")
    with pytest.warns(UserWarning, match=r"of 527 classes have no clip .*: 'Male speech.* more$"):
        data.train_dataloader()


def test_provenance(tmp_path, small_model_folder):
    assert AudioSetEmbeddingsDataModule(RELEASED).provenance is None
    assert AudioSetEmbeddingsDataModule("features.tar.gz").provenance is None
    audio = write_folder(tmp_path / "audio", {f"{name}.wav": SPEECH for name in IDS[:2]})
    segments = write_csv(tmp_path / "segments.csv", dict.fromkeys(IDS[:2], (0, 4)))
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    out = tmp_path / "out"
    embed_clips(audio, pipeline, out, segments=segments, split="bal_train")
    expected = pipeline.weights_sha256
    assert AudioSetEmbeddingsDataModule(out).provenance["weights_sha256"] == expected
    (out / "bal_train" / "provenance.json").unlink()  # then the Parquet files say so
    data = AudioSetEmbeddingsDataModule(out, cache_dir=tmp_path / "cache")
    assert data.provenance["weights_sha256"] == expected
    head = VGGishClassifier(data.classes, data.task, postprocess="pca", head="linear")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Total length of `list`")
        trainer.fit(head, datamodule=data)
    assert head.hparams.embeddings_from["weights_sha256"] == expected


def test_another_split(tmp_path):
    with pytest.raises(ValueError, match="unbal_train"):
        AudioSetEmbeddingsDataModule(RELEASED, train_split="unbal_train", cache_dir=tmp_path).setup(
            "fit"
        )


class Listener(pl.LightningModule):
    """Learns nothing, and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard = Counter()

    def training_step(self, batch):
        self.heard.update(batch["id"])
        return (self.weight * batch["target"]).sum()

    def validation_step(self, batch):
        self.heard.update(batch["id"])

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )


def test_trainer(trainer, tmp_path):
    data = AudioSetEmbeddingsDataModule(
        RELEASED, RELEASED, validation_fraction=0.2, batch_size=5, cache_dir=tmp_path
    )
    listener = Listener()
    trainer.fit(listener, datamodule=data)
    assert listener.heard == dict.fromkeys(RECORDS["bal_train"], 1)
    listener.heard.clear()
    trainer.test(listener, datamodule=data, verbose=False)
    assert listener.heard == dict.fromkeys(RECORDS["eval"], 1)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    """A data module over all of bal_train, if it is there."""
    folder = SHARED / "data" / "audioset"
    if not folder.is_dir():
        pytest.skip("the folder ../shared is not here")
    data = AudioSetEmbeddingsDataModule(
        folder / "bal_train.tar",
        folder / "eval_quarter.tar",
        validation_fraction=0.1,
        balanced_sampling=True,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.slow
def test_all_of_the_balanced_set(balanced):
    assert (len(balanced.train), len(balanced.validation)) == (19_944, 2_216)
    held_out = sum(batch["target"].sum(0) for batch in balanced.val_dataloader())
    assert (held_out > 0).sum() > 500  # nearly each of the 527 classes
    balanced.setup("test")
    assert len(balanced.test) == 5_044


@pytest.mark.slow
def test_labels_belong_to_their_clips(balanced):
    for i in range(0, 19_944, 997):
        target = balanced.train[i]["target"][0]
        assert target.nonzero().flatten().tolist() == sorted(balanced.train_labels[i])


@pytest.mark.slow
def test_balanced_sampling(balanced):
    torch.manual_seed(0)
    loader = balanced.train_dataloader()
    drawn = sum(batch["target"].sum(0) for batch in loader)
    chance = loader.sampler.weights / loader.sampler.weights.sum()
    expected = torch.zeros(527, dtype=torch.float64)
    for labels, value in zip(balanced.train_labels, chance.tolist(), strict=True):
        expected[labels] += value * len(chance)
    assert ((drawn - expected).abs() < 5 * expected.sqrt()).all()


@pytest.fixture(scope="module", params=["files", pytest.param("exported", marks=pytest.mark.slow)])
def clips(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    audio = write_folder(
        folder / "audio", {f"{IDS[0]}.wav": SPEECH, f"{IDS[1]}.ogg": OGG.read_bytes()}
    )
    segments = write_csv(folder / "balanced_train_segments.csv", {IDS[0]: (0, 4), IDS[1]: (2, 12)})
    if request.param == "files":
        return segments, audio
    export_clips(segments, audio, folder / "exported", split="bal_train")
    return folder / "exported"


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_clips(clips, tmp_path, num_workers):
    data = AudioSetClipsDataModule(
        clips, clips, test_split="bal_train", num_workers=num_workers, cache_dir=tmp_path
    )
    assert len(data.classes) == 527
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    (batch,) = data.test_dataloader()
    whole, rate = load_audio(OGG)
    assert batch["id"] == list(IDS[:2])
    assert batch["sampling_rate"].tolist() == [16_000, 22_050]
    assert batch["length"].tolist() == [64_000, 220_500]
    assert torch.equal(batch["waveform"][0, :64_000], load_audio(SPEECH)[0])
    assert not batch["waveform"][0, 64_000:].any()
    assert torch.equal(batch["waveform"][1], whole[2 * rate : 12 * rate])
    assert [row.nonzero().flatten().tolist() for row in batch["target"]] == [[0, 451]] * 2
    assert sorted(ids(data.train_dataloader())) == sorted(IDS[:2])


def test_clips_balanced_and_held_out(clips, tmp_path):
    data = AudioSetClipsDataModule(
        clips, validation_fraction=0.5, balanced_sampling=True, cache_dir=tmp_path
    )
    data.setup("fit")
    assert sorted(ids(data.train_dataloader()) + ids(data.val_dataloader())) == sorted(IDS[:2])


def test_a_folder_of_clips_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no folder 'org/name/clips' found"):
        AudioSetClipsDataModule("org/name").setup("fit")
