"""Every file's examples, whole and once, in full batches, whoever reads them."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS

pl = pytest.importorskip("lightning.pytorch")

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor, VGGishPipeline  # noqa: E402
from vggish_hf.audio import AudioLimits  # noqa: E402
from vggish_hf.inputs import find_clips  # noqa: E402
from vggish_hf.lightning import AudioFilesDataModule, VGGishEmbedder  # noqa: E402
from vggish_hf.lightning.audio_files import AudioFileBatches  # noqa: E402
from vggish_hf.pipeline import stream_examples  # noqa: E402

pytestmark = [
    # Lightning's own, with torch 2.11
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # of small data, on machines of many cores
    pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers"),
]

AUDIO = TESTS / "data" / "audio_cases"
CLIPS = find_clips([str(AUDIO)])
PATHS = [clip.id for clip in CLIPS]


@pytest.fixture
def extractor():
    return VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))


def collect(batches):
    """The examples of each file, and the failed ones; checks that parts come in order."""
    open_parts, whole, failed = {}, {}, {}
    for batch in batches:
        rows = batch["examples"].split(batch["num_examples"])
        parts = zip(batch["id"], batch["first_example"], batch["is_last"], rows, strict=True)
        for clip, first, is_last, examples in parts:
            assert clip not in whole
            before = open_parts.setdefault(clip, [])
            assert first == sum(map(len, before))
            before.append(examples)
            if is_last:
                whole[clip] = torch.cat(open_parts.pop(clip))
        for clip, reason in batch["failed"]:
            open_parts.pop(clip, None)
            assert clip not in failed
            failed[clip] = reason
    assert not open_parts
    return whole, failed


def expected(extractor, paths=PATHS):
    whole, failed = {}, {}
    for path in paths:
        try:
            whole[path] = torch.cat(list(stream_examples(extractor, path)))
        except ValueError as error:
            failed[path] = str(error)
    return whole, failed


def same(found, wanted):
    assert found[1] == wanted[1]
    assert found[0].keys() == wanted[0].keys()
    assert all(torch.equal(found[0][clip], wanted[0][clip]) for clip in wanted[0])


@pytest.mark.parametrize(
    "batch_size",
    [7, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 32, 1000))],
)
def test_batches(extractor, batch_size):
    batches = list(AudioFileBatches(CLIPS, extractor, batch_size=batch_size))
    wanted = expected(extractor)
    assert len(wanted[0]) >= 11
    assert 3 <= len(wanted[1]) <= 4
    same(collect(batches), wanted)
    assert len(batches[-1]["examples"]) <= batch_size
    for batch in batches[:-1]:
        # Files without an example give no rows, but do not wait for others.
        if len(batch["id"]) + len(batch["failed"]) < batch_size:
            assert len(batch["examples"]) == batch_size


@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(3, 0, marks=pytest.mark.slow),
        (2, 1),
        pytest.param(20, 0, marks=pytest.mark.slow),
    ],
)
def test_each_file_has_one_reader(extractor, world_size, num_workers):
    readers = []
    for rank in range(world_size):
        batches = AudioFileBatches(CLIPS, extractor, rank=rank, world_size=world_size)
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, collate_fn=lambda batch: batch, num_workers=num_workers
        )
        readers.append(list(loader))
    same(collect(batch for batches in readers for batch in batches), expected(extractor))


def test_processes_that_skip_otherwise_still_read_each_file_once(extractor):
    # A machine may see files of a killed run later than another one does.
    whole, failed = {}, {}
    for rank, skip in enumerate([PATHS[:3], []]):
        batches = AudioFileBatches(CLIPS, extractor, rank=rank, world_size=2, skip=skip)
        for found, parts in zip((whole, failed), collect(batches), strict=True):
            assert not found.keys() & parts.keys()
            found.update(parts)
    assert {*whole, *failed} == set(PATHS) - {PATHS[0], PATHS[2]}


def test_skipped_files_are_not_read(extractor, tmp_path):
    batches = AudioFileBatches(
        [*find_clips([str(tmp_path / "gone")]), CLIPS[1]], extractor, skip=PATHS[1:]
    )
    assert collect(batches) == (
        {},
        {
            str(tmp_path / "gone"): f"No such audio file: {str(tmp_path / 'gone')!r}",
        },
    )


def test_a_file_without_an_example_is_whole(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    (batch,) = AudioFileBatches(find_clips([str(tmp_path / "short.wav")]), VGGishFeatureExtractor())
    assert batch["id"] == [str(tmp_path / "short.wav")]
    assert (batch["num_examples"], batch["is_last"]) == ([0], [True])
    assert batch["examples"].shape == (0, 96, 64)


def test_files_without_rows_do_not_wait(extractor, tmp_path):
    paths = [str(tmp_path / f"{number}.wav") for number in range(10)]
    batches = list(AudioFileBatches(find_clips(paths), extractor, batch_size=4))
    assert [len(batch["failed"]) for batch in batches] == [4, 4, 2]
    assert [len(batch["examples"]) for batch in batches] == [0, 0, 0]


def test_a_long_file_comes_in_parts(extractor, tmp_path, generator):
    path = tmp_path / "long.wav"
    waveform = 0.1 * torch.randn(90 * 16_000, generator=generator)
    soundfile.write(path, waveform.numpy(), 16_000, subtype="FLOAT")
    batches = iter(AudioFileBatches(find_clips([str(path)]), extractor, batch_size=20))
    first = next(batches)
    assert first["is_last"] == [False]
    same(collect([first, *batches]), expected(extractor, [str(path)]))


def test_a_file_that_breaks_off(extractor, tmp_path):
    samples = np.zeros(16_000 * 90, np.float32)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "broken.wav", samples, 16_000, subtype="FLOAT")
    batches = list(
        AudioFileBatches(find_clips([str(tmp_path / "broken.wav")]), extractor, batch_size=8)
    )
    assert sum(len(batch["examples"]) for batch in batches) == 32
    whole, failed = collect(batches)
    assert whole == {}
    assert "finite" in failed[str(tmp_path / "broken.wav")]


def test_float64(extractor):
    batches = list(AudioFileBatches(CLIPS[:2], extractor, dtype=torch.float64))
    assert {batch["examples"].dtype for batch in batches} == {torch.float64}
    same(collect(batches), collect(AudioFileBatches(CLIPS[:2], extractor, dtype=torch.float64)))


# The data module


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([str(TESTS / "*.mp3")],), {}, "audio files"),
        ((["a.wav"],), {"batch_size": 0}, "`batch_size` of at least 1 .* got 0 and 2"),
        ((["a.wav"],), {"num_workers": -1}, "`num_workers` of at least 0, got 32 and -1"),
    ],
)
def test_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        AudioFilesDataModule(*arguments, **options)


def test_paths_of_any_kind():
    data = AudioFilesDataModule([Path("a"), "b", "a"])
    assert [clip.id for clip in data.clips] == ["a", "b"]
    for one in ("a.wav", Path("a.wav"), find_clips(["a.wav"])):
        assert AudioFilesDataModule(one).clips == find_clips(["a.wav"])


def test_the_same_inputs_as_embed(extractor, tmp_path):
    shutil.copy(AUDIO / "harritaylor__test.wav", tmp_path / "a.wav")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(tmp_path / "a.wav", "b.wav")
    (tmp_path / "out.wav").symlink_to(AUDIO / "harritaylor__test.wav")
    skipped = []
    data = AudioFilesDataModule(str(tmp_path), on_skip=lambda path, reason: skipped.append(path))
    assert data.clips == find_clips([str(tmp_path)])
    assert skipped == [str(tmp_path / "out.wav")]
    assert len(AudioFilesDataModule([tmp_path], follow_symlinks=True).clips) == 3
    whole, failed = collect(AudioFileBatches(data.clips, extractor))
    assert not failed
    assert whole.keys() == {str(tmp_path / "a.wav"), str(tmp_path / "shard.tar/b.wav")}
    assert torch.equal(*whole.values())


def test_limits(extractor):
    (clip,) = find_clips([str(AUDIO / "harritaylor__test.wav")])
    batches = AudioFileBatches([clip], extractor, limits=AudioLimits(max_seconds=0.5))
    whole, failed = collect(batches)
    assert not whole
    assert "0.5" in failed[clip.id]


def test_it_needs_a_trainer_and_an_extractor():
    data = AudioFilesDataModule(PATHS, num_workers=0)
    with pytest.raises(ValueError, match="Expected a Trainer"):
        data.predict_dataloader()
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(pl.LightningModule())
    with pytest.raises(ValueError, match="VGGishEmbedder, got LightningModule with NoneType"):
        data.predict_dataloader()


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64]
)
def test_the_module_says_which_examples(small_model_folder, dtype):
    pipe = VGGishPipeline.from_pretrained(
        small_model_folder, padding="tail", example_hop_seconds=0.48, dtype=dtype
    )
    data = AudioFilesDataModule(PATHS, num_workers=0)
    data.skip(PATHS[:3])
    data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(VGGishEmbedder(pipe))
    batches = list(data.predict_dataloader())
    assert {batch["examples"].dtype for batch in batches} == {dtype}
    whole, failed = collect(batches)
    wanted = expected(pipe.extractor, PATHS[3:])
    assert failed == wanted[1]
    assert {clip: len(rows) for clip, rows in whole.items()} == {
        clip: len(rows) for clip, rows in wanted[0].items()
    }
    data.skip(PATHS[:-1])
    (batch,) = data.predict_dataloader()
    assert [*batch["id"], *dict(batch["failed"])] == PATHS[-1:]
