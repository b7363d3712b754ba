import csv
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor
from vggish_hf.audio import AudioError, load_audio
from vggish_hf.lightning.audio_folder import AudioFolderDataModule
from vggish_hf.training.batches import extract_batch

pytestmark = [
    # Lightning's own, with torch 2.11
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # of small data, on machines of many cores
    pytest.mark.filterwarnings("ignore:.*_dataloader' does not have many workers"),
]

AUDIO = TESTS / "data" / "audio_cases"

# By class, files of four rates and four formats; the digit is the fold.
FILES = {
    "speech/1-a.wav": "harritaylor__test.wav",
    "speech/2-b.ogg": "librosa__198-209-0000.ogg",
    "speech/3-c.wav": "rochars__8bit-16kHz-bext-mono.wav",
    "speech/4-d.wav": "rochars__8bit-alaw-8kHz-noBext-mono-encoded.wav",
    "music/1-e.mp3": "facebookresearch__bach.mp3",
    "music/2-f.wav": "iver56__signed_24bit.wav",
    "music/3-g.mp3": "facebookresearch__bach.mp3",
    "music/4-h.wav": "iver56__digital_silence.wav",
}
FOLDS = r"^(\d)-"


@pytest.fixture
def folder(tmp_path):
    for name, source in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(AUDIO / source, tmp_path / name)
    return tmp_path


@pytest.fixture
def table(folder):
    labels = {"speech/1-a.wav": "voice;indoors", "music/1-e.mp3": "music"}
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "fold"])
        writer.writerows([name, labels.get(name, name.split("/")[0]), name[-5]] for name in FILES)
    return folder / "clips.csv"


def ids(loader):
    return [name for batch in loader for name in batch["id"]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_is_what_the_extractor_makes_of_each_file(folder, num_workers):
    data = AudioFolderDataModule(
        folder,
        fold_pattern=FOLDS,
        test_folds=[1, 2, 3],
        max_seconds=4.0,
        batch_size=3,
        num_workers=num_workers,
    )
    data.setup("test")
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))
    seen = []
    for batch in data.test_dataloader():
        examples, mask = extract_batch(extractor, batch)
        for i, name in enumerate(batch["id"]):
            waveform, rate = load_audio(folder / name)
            expected = extractor(waveform[: 4 * rate], rate)
            assert torch.allclose(examples[i][mask[i]], expected, rtol=0, atol=2e-5)
            assert batch["sampling_rate"][i] == rate
            assert batch["target"][i].tolist() == [name[0] == "m", name[0] == "s"]
            seen.append(name)
    assert seen == sorted(name for name in FILES if not re.search("/4-", name))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_crops(folder, num_workers):
    pl.seed_everything(0)
    data = AudioFolderDataModule(folder, clip_seconds=1.5, batch_size=3, num_workers=num_workers)
    assert (data.classes, data.task) == (["music", "speech"], "single_label")
    data.setup("fit")
    loader = data.train_dataloader()
    epochs = [list(loader), list(loader)]
    crops = []
    for epoch in epochs:
        assert [len(batch["id"]) for batch in epoch] == [3, 3, 2]
        assert sorted(ids(epoch)) == sorted(FILES)
        crops.append({})
        for batch in epoch:
            for i, name in enumerate(batch["id"]):
                length, rate = int(batch["length"][i]), int(batch["sampling_rate"][i])
                whole = load_audio(folder / name)[0]
                assert length == min(round(1.5 * rate), len(whole))
                crops[-1][name] = batch["waveform"][i, :length]
    assert ids(epochs[0]) != ids(epochs[1])  # in another order
    same = [name for name in FILES if torch.equal(crops[0][name], crops[1][name])]
    assert sorted(same) == ["music/2-f.wav", "music/4-h.wav"]  # those shorter than a crop


def test_training_without_crops(folder):
    data = AudioFolderDataModule(folder, max_seconds=2.0, batch_size=8)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    for name, waveform, length in zip(batch["id"], batch["waveform"], batch["length"], strict=True):
        whole, rate = load_audio(folder / name)
        assert torch.equal(waveform[:length], whole[: 2 * rate])


def test_a_class_without_a_clip_to_learn_from_is_named(folder):
    shutil.copytree(folder / "speech", folder / "rain")
    for name in ("2-b.ogg", "3-c.wav", "4-d.wav"):
        (folder / "rain" / name).unlink()
    data = AudioFolderDataModule(folder, fold_pattern=FOLDS, test_folds=[1])
    data.setup("fit")
    with pytest.warns(UserWarning, match="1 of 3 classes have no clip to learn from: 'rain'$"):
        data.train_dataloader()
    AudioFolderDataModule(folder, validation_fraction=0.3).setup("fit")  # one clip stays


def test_folds_go_before_a_fraction(folder):
    data = AudioFolderDataModule(
        folder, fold_pattern=FOLDS, validation_folds=[1], validation_fraction=0.5
    )
    data.setup("fit")
    assert {name.split("/")[1][0] for name in ids(data.val_dataloader())} == {"1"}


def test_folds(folder):
    data = AudioFolderDataModule(
        folder, fold_pattern=FOLDS, validation_folds=["3"], test_folds=[1], batch_size=2
    )
    data.setup("fit")
    assert sorted(ids(data.train_dataloader())) == sorted(
        name for name in FILES if name.split("/")[1][0] in "24"
    )
    assert ids(data.val_dataloader()) == ["music/3-g.mp3", "speech/3-c.wav"]
    data.setup("test")
    assert ids(data.test_dataloader()) == ["music/1-e.mp3", "speech/1-a.wav"]


def test_fraction(folder):
    def held_out(seed):
        data = AudioFolderDataModule(
            folder, fold_pattern=FOLDS, test_folds=[1], validation_fraction=0.34, seed=seed
        )
        data.setup("fit")
        train, validation = ids(data.train_dataloader()), ids(data.val_dataloader())
        assert sorted(train + validation) == sorted(n for n in FILES if "/1-" not in n)
        assert Counter(name[0] for name in validation) == {"m": 1, "s": 1}
        return validation

    assert held_out(0) == held_out(0)
    assert len({tuple(held_out(seed)) for seed in range(10)}) > 2


def test_table(table):
    data = AudioFolderDataModule(table, test_folds=["a", "e"], validation_folds=["h"])
    assert (data.classes, data.task) == (["indoors", "music", "speech", "voice"], "multi_label")
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch["id"] == ["speech/1-a.wav", "music/1-e.mp3"]
    assert batch["target"].tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert batch["target"].dtype == torch.float32


def test_balanced_sampling(folder):
    for name in ("1-e.mp3", "2-f.wav", "3-g.mp3"):
        (folder / "music" / name).unlink()
    pl.seed_everything(0)
    data = AudioFolderDataModule(folder, clip_seconds=0.1, balanced_sampling=True)
    data.setup("fit")
    loader = data.train_dataloader()
    drawn = Counter()
    for epoch in range(40):
        loader.sampler.set_epoch(epoch)
        names = ids(loader)
        assert len(names) == 5
        drawn.update(name[0] for name in names)
    assert 70 < drawn["m"] < 130  # one clip of music, four of speech


class Listener(pl.LightningModule):
    """Learns nothing, and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.heard = {"training": [], "validation": [], "test": []}

    def training_step(self, batch):
        self.heard["training"] += batch["id"]
        return (self.weight * batch["target"]).sum()

    def validation_step(self, batch):
        self.heard["validation"] += batch["id"]

    def test_step(self, batch):
        self.heard["test"] += batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
    )


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")  # true of []
@pytest.mark.parametrize("validation_folds", [[], ["3"]])
def test_trainer(folder, trainer, validation_folds):
    data = AudioFolderDataModule(
        folder,
        clip_seconds=0.5,
        fold_pattern=FOLDS,
        validation_folds=validation_folds,
        test_folds=["1"],
        batch_size=2,
        num_workers=2 if validation_folds else 0,
    )
    listener = Listener()
    trainer.fit(listener, datamodule=data)
    trainer.test(listener, datamodule=data, verbose=False)
    heard = {stage: Counter(names) for stage, names in listener.heard.items()}
    train = [n for n in FILES if n.split("/")[1][0] not in ["1", *validation_folds]]
    assert heard["training"] == dict.fromkeys(train, 2)
    validation = [n for n in FILES if n.split("/")[1][0] in validation_folds]
    assert heard["validation"] == dict.fromkeys(validation, 2)
    assert heard["test"] == {"music/1-e.mp3": 1, "speech/1-a.wav": 1}


def test_nothing_to_test_with(folder):
    data = AudioFolderDataModule(folder)
    data.setup("test")
    # Not by a Trainer: after an error in this hook Lightning leaves torch's DataLoader patched.
    with pytest.raises(ValueError, match="clips to test with, this AudioFolderDataModule has none"):
        data.test_dataloader()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_cannot_be_decoded_is_named(folder, num_workers):
    shutil.copy(AUDIO / "marl__empty.wav", folder / "speech/1-a.wav")
    data = AudioFolderDataModule(folder, clip_seconds=1.0, num_workers=num_workers)
    data.setup("fit")
    with pytest.raises(AudioError, match=re.escape(f"{folder / 'speech/1-a.wav'}: it holds no")):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"test_folds": [1]}, r"got \['1'\]; no clip has a fold, see `fold_pattern`"),
        (
            {"fold_pattern": FOLDS, "test_folds": [7], "validation_folds": [1]},
            r"Expected folds that have clips, got \['7'\]; there are \['1', '2', '3', '4'\]",
        ),
        (
            {"fold_pattern": FOLDS, "test_folds": [1], "validation_folds": [2, 1]},
            r"each fold to be held out once, got \['2', '1', '1'\]",
        ),
        (
            {"fold_pattern": FOLDS, "test_folds": [1, 2], "validation_folds": [3, 4]},
            "Expected folds to train with, all are held out",
        ),
        ({"validation_fraction": 0.01}, r"a fraction between 0 and 1 .* got 0\.01 of 8"),
        ({"clip_seconds": 0.0}, r"`clip_seconds` to be positive, got 0\.0"),
        ({"max_seconds": -1.0}, r"`max_seconds` to be positive, got -1\.0"),
        ({"batch_size": 0}, "`batch_size` of at least 1 .* got 0 and 0"),
        ({"num_workers": -1}, "got 32 and -1"),
    ],
)
def test_refused(folder, arguments, match):
    with pytest.raises(ValueError, match=match):
        AudioFolderDataModule(folder, **arguments)


def test_sources_that_are_refused(folder, table):
    with pytest.raises(FileNotFoundError, match=r"folder or a table, .* does not exist"):
        AudioFolderDataModule(folder / "missing")
    with pytest.raises(ValueError, match=r"or a table \.csv or \.parquet, got '.*1-a\.wav'"):
        AudioFolderDataModule(folder / "speech/1-a.wav")
    shutil.rmtree(folder / "music")
    with pytest.raises(ValueError, match=r"at least two classes in .*, got \['speech'\]"):
        AudioFolderDataModule(folder)


@pytest.mark.slow
def test_esc10(shared):
    data = AudioFolderDataModule(
        shared / "data/esc10",
        clip_seconds=1.0,
        fold_pattern=FOLDS,
        validation_fraction=0.1,
        test_folds=["1"],
        batch_size=8,
        num_workers=2,
    )
    assert len(data.classes) == 10
    assert data.classes[0] == "001 - Dog bark"
    data.setup("fit")
    assert (len(data.train), len(data.validation), len(data.test)) == (216, 24, 80)
    batch = next(iter(data.train_dataloader()))
    assert batch["waveform"].shape == (8, 44_100)
    assert batch["target"].sum(1).tolist() == [1] * 8
    labels = Counter(name.split("/")[0] for name in ids(data.val_dataloader()))
    assert set(labels.values()) <= {2, 3}
    assert len(labels) == 10


def first_clip(data):
    """A clip to learn from, and how many decoder processes there are after it."""
    data.setup("fit")
    torch.manual_seed(0)
    clip = data.train[0]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    return clip, sum(b"_worker.py" in command for command in commands)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("clip_seconds", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_files_may_be_decoded_in_processes_of_their_own(folder, clip_seconds):
    expected, before = first_clip(AudioFolderDataModule(folder, clip_seconds=clip_seconds))
    data = AudioFolderDataModule(folder, clip_seconds=clip_seconds, isolated=True)
    clip, processes = first_clip(data)
    assert processes == before + 1
    assert torch.equal(clip["waveform"], expected["waveform"])


@pytest.mark.parametrize("clip_seconds", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_workers_decode_in_processes_of_their_own(folder, clip_seconds):
    batches = []
    for isolated in (False, True):
        data = AudioFolderDataModule(
            folder,
            fold_pattern=FOLDS,
            validation_folds=[1, 2, 3],
            clip_seconds=clip_seconds,
            num_workers=2,
            isolated=isolated,
        )
        data.setup("fit")
        data.validation[0]  # the parent's decoders are not the workers'
        batches.append(list(data.val_dataloader()))
    for expected, found in zip(*batches, strict=True):
        assert torch.equal(found["waveform"], expected["waveform"])
