"""Predictions on disk: what `vggish-hf embed` writes, by any number of processes, killed or not."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from folders import TESTS

pl = pytest.importorskip("lightning.pytorch")

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor, VGGishPipeline  # noqa: E402
from vggish_hf.cli import main  # noqa: E402
from vggish_hf.inputs import find_clips  # noqa: E402
from vggish_hf.lightning import (  # noqa: E402
    AudioFilesDataModule,
    VGGishEmbedder,
    VGGishEmbeddingWriter,
    writer,
)
from vggish_hf.outputs.folder import EmbeddingFolder  # noqa: E402

pytestmark = [
    # Lightning's own, with torch 2.11
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is:FutureWarning"),
    # of small data, on machines of many cores
    pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers"),
]

AUDIO = TESTS / "data" / "audio_cases"
PATHS = [clip.id for clip in find_clips([str(AUDIO)])]
SCRIPT = TESTS / "ddp_prediction.py"
SECONDS = 240  # for two processes that import everything, on a busy machine

# Batches of other sizes add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def predict(module, data, *callbacks, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=list(callbacks),
    )
    return trainer.predict(module, data, **{"return_predictions": False, **options})


def files(paths=PATHS):
    return AudioFilesDataModule(paths, batch_size=5, num_workers=0)


class Computed(pl.Callback):
    """Which inputs a run has computed."""

    def __init__(self):
        self.ids = set()

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.ids.update([*outputs["id"], *dict(outputs["failed"])])


@pytest.fixture(scope="module")
def expected(small_model_folder, tmp_path_factory):
    """What the command writes."""
    out = tmp_path_factory.mktemp("cli") / "out.parquet"
    assert main(["embed", str(AUDIO), "-o", str(out), "--model", str(small_model_folder)]) == 1
    return pq.read_table(out)


def read(folder):
    return pyarrow.dataset.dataset(folder).to_table()


def assert_same_rows(found, expected):
    """That tables agree row for row, whatever the order of their clips."""
    order = [("id", "ascending"), ("example", "ascending")]
    found, expected = found.sort_by(order), expected.sort_by(order)
    assert found.schema.equals(expected.schema, check_metadata=False)
    for name in ("id", "example", "start_seconds"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    rows = [np.stack(table["embedding"].to_numpy()) for table in (found, expected)]
    assert np.allclose(*rows, **TOLERANCE)


# One process


@pytest.mark.parametrize(
    "clips_per_part",
    [
        pytest.param(1, marks=pytest.mark.slow),
        4,
        pytest.param(1024, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("merge", [False, True])
def test_it_writes_what_the_command_does(
    small_model_folder, tmp_path, expected, caplog, clips_per_part, merge
):
    caplog.set_level(logging.INFO)
    embeddings = VGGishEmbeddingWriter(tmp_path, clips_per_part=clips_per_part, merge=merge)
    assert predict(VGGishEmbedder(small_model_folder), files(), embeddings) is None
    assert_same_rows(read(tmp_path), expected)
    embedded = set(expected["id"].to_pylist())
    failed = set(PATHS) - embedded
    assert EmbeddingFolder(tmp_path).failed().keys() == failed
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    if merge:
        assert names == {"embeddings.parquet"}
        ids = read(tmp_path)["id"].to_pylist()
        assert ids == sorted(ids)
    else:
        # Failed ones count too.
        assert len(embedded) / clips_per_part <= len(names) <= len(PATHS) / clips_per_part + 1
        lengths = [len(set(pq.read_table(tmp_path / name)["id"].to_pylist())) for name in names]
        assert max(lengths) <= clips_per_part
    report = [text for text in caplog.messages if "clips in" in text]
    assert len(report) == 1
    first, *lines = report[0].splitlines()
    assert first == f"{len(embedded)} clips in {tmp_path}, {len(failed)} failed"
    assert {line.split(": ")[1] for line in lines} == failed


def test_provenance_is_the_pipeline_s(small_model_folder, tmp_path):
    pipe = VGGishPipeline.from_pretrained(small_model_folder, padding="tail")
    embeddings = VGGishEmbeddingWriter(tmp_path)
    predict(VGGishEmbedder(pipe, postprocess="uint8"), files(PATHS[:2]), embeddings)
    manifest = EmbeddingFolder(tmp_path).manifest
    assert manifest["dtype"] == "uint8"
    EmbeddingFolder(tmp_path).start(pipe.provenance("uint8"), 128, torch.uint8)


def test_it_resumes(small_model_folder, tmp_path, expected):
    module = VGGishEmbedder(small_model_folder)
    predict(module, files(PATHS[:6]), VGGishEmbeddingWriter(tmp_path, clips_per_part=2))
    done = set(EmbeddingFolder(tmp_path).completed_ids())
    assert 1 < len(done) < 6 + 1
    parts = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    computed = Computed()
    embeddings = VGGishEmbeddingWriter(tmp_path, clips_per_part=2)
    predict(module, files(), embeddings, computed)
    assert computed.ids == set(PATHS) - done
    assert_same_rows(read(tmp_path), expected)
    assert {path: path.read_bytes() for path in parts} == parts
    again = Computed()
    predict(module, files(), embeddings, again)
    assert again.ids == EmbeddingFolder(tmp_path).failed().keys()
    assert_same_rows(read(tmp_path), expected)


def test_a_clip_without_an_example_is_done(small_model_folder, tmp_path):
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(100), 16_000)
    pipe = VGGishPipeline.from_pretrained(small_model_folder, padding="none")
    for expected in ({str(short)}, set()):
        computed = Computed()
        embeddings = VGGishEmbeddingWriter(tmp_path / "out")
        predict(VGGishEmbedder(pipe), files([short]), embeddings, computed)
        assert computed.ids == expected
        assert list(embeddings.folder.completed_ids()) == [str(short)]
        assert embeddings.folder.failed() == {}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"example_hop_seconds": 0.48}, "example_hop_seconds: 0.96, now 0.48"),
        pytest.param({"padding": "tail"}, "padding: 'short', now 'tail'", marks=pytest.mark.slow),
        pytest.param(
            {"dtype": torch.bfloat16},
            "dtype: 'float32', now 'bfloat16'",
            marks=pytest.mark.slow,
        ),
        ({"postprocess": "pca"}, "postprocess: 'none', now 'pca'"),
        ({"scaled": True}, "weights_sha256: '"),
    ],
)
def test_other_weights_and_options_are_refused(small_model_folder, tmp_path, change, key):
    out = tmp_path / "out"
    predict(VGGishEmbedder(small_model_folder), files(PATHS[:2]), VGGishEmbeddingWriter(out))
    before = {path: path.read_bytes() for path in out.iterdir()}
    postprocess = change.pop("postprocess", "none")
    if change.pop("scaled", False):
        pipe = VGGishPipeline.from_pretrained(small_model_folder)
        with torch.no_grad():
            pipe.model.fc2.weight.mul_(2)
        pipe.save_pretrained(tmp_path / "scaled")
        pipe = VGGishPipeline.from_pretrained(tmp_path / "scaled", padding="short")
    else:
        pipe = VGGishPipeline.from_pretrained(small_model_folder, **change)
    computed = Computed()
    with pytest.raises(ValueError, match="write to another folder") as raised:
        predict(
            VGGishEmbedder(pipe, postprocess=postprocess),
            files(),
            VGGishEmbeddingWriter(out),
            computed,
        )
    assert key in str(raised.value)
    assert computed.ids == set()
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_weights_without_a_file_are_distinguished(small_model, tmp_path):
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(padding="short"))
    module = VGGishEmbedder(VGGishPipeline(extractor, small_model))
    predict(module, files(PATHS[:2]), VGGishEmbeddingWriter(tmp_path))
    predict(module, files(PATHS[:3]), VGGishEmbeddingWriter(tmp_path))
    with torch.no_grad():
        small_model.fc2.bias[0] += 1
    try:
        with pytest.raises(ValueError, match="weights_sha256"):
            predict(module, files(PATHS[:2]), VGGishEmbeddingWriter(tmp_path))
    finally:
        with torch.no_grad():
            small_model.fc2.bias[0] -= 1


def test_foreign_folders_and_arguments(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="has other content"):
        VGGishEmbeddingWriter(tmp_path)
    with pytest.raises(ValueError, match="`clips_per_part` of at least 1, got 0"):
        VGGishEmbeddingWriter(tmp_path / "out", clips_per_part=0)


# A module of one's own


class Own(pl.LightningModule):
    """Gives what it is told."""

    def __init__(self, predictions):
        super().__init__()
        self.predictions = predictions
        self.weight = torch.nn.Parameter(torch.ones(1))

    def predict_step(self, batch, batch_idx):
        return self.predictions[batch_idx]

    def predict_dataloader(self):
        return torch.utils.data.DataLoader(range(len(self.predictions)))


def rows(*values):
    return torch.tensor(values)[:, None].expand(-1, 4)


def test_an_id_and_its_row_are_enough(tmp_path):
    embeddings = VGGishEmbeddingWriter(tmp_path)
    module = Own(
        [
            {"id": ["b", "a"], "embedding": rows(1.0, 2.0)},
            {"id": ["c", "d"], "embedding": rows(3.0, 4.0, 5.0), "num_examples": [3, 0]},
        ]
    )
    predict(module, None, embeddings)
    assert read(tmp_path).to_pylist() == [
        {"id": clip, "example": example, "start_seconds": seconds, "embedding": [value] * 4}
        for clip, example, seconds, value in [
            ("a", 0, 0.0, 2.0),
            ("b", 0, 0.0, 1.0),
            ("c", 0, 0.0, 3.0),
            ("c", 1, 0.96, 4.0),
            ("c", 2, 1.92, 5.0),
        ]
    ]
    assert sorted(embeddings.folder.completed_ids()) == ["a", "b", "c", "d"]
    assert "state_sha256" in embeddings.folder.manifest["provenance"]


@pytest.mark.filterwarnings("ignore:predict returned None:UserWarning")
def test_a_step_without_rows(tmp_path):
    class Sparing(pl.LightningModule):
        def predict_step(self, batch, batch_idx):
            return None if batch_idx % 2 else {"id": [batch], "embedding": torch.zeros(1, 4)}

    names = ["a", "b", "c"]
    loader = torch.utils.data.DataLoader(names, batch_size=None)
    writer = VGGishEmbeddingWriter(tmp_path / "out")
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[writer]
    )
    trainer.predict(Sparing(), loader, return_predictions=False)
    assert sorted(EmbeddingFolder(tmp_path / "out").completed_ids()) == ["a", "c"]


def test_the_module_s_front_end_says_the_times(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0, 2.0), "num_examples": [2]}])
    module.extractor = VGGishFeatureExtractor(VGGishFeatureConfig(example_hop_seconds=0.48))
    predict(module, None, VGGishEmbeddingWriter(tmp_path))
    assert read(tmp_path)["start_seconds"].to_pylist() == [0.0, 0.48]


def test_rows_that_are_there_are_not_written_again(tmp_path):
    class Parts(pl.Callback):
        """Which files there are, before they are put in order."""

        def on_predict_batch_end(self, *_):
            self.lengths = sorted(len(pq.read_table(path)) for path in tmp_path.glob("*.parquet"))

    parts = Parts()
    first = Own([{"id": ["a", "b", "x"], "embedding": rows(1.0, 2.0, 9.0)}])
    predict(first, None, VGGishEmbeddingWriter(tmp_path), parts)
    again = Own([{"id": ["b", "c", "a"], "embedding": rows(2.0, 3.0, 1.0)}])
    predict(again, None, VGGishEmbeddingWriter(tmp_path, clips_per_part=1), parts)
    assert parts.lengths == [1, 3]
    assert sorted(read(tmp_path)["id"].to_pylist()) == ["a", "b", "c", "x"]


def test_other_weights_of_one_s_own_are_refused(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0)}])
    predict(module, None, VGGishEmbeddingWriter(tmp_path))
    torch.nn.init.zeros_(module.weight)
    with pytest.raises(ValueError, match="state_sha256"):
        predict(module, None, VGGishEmbeddingWriter(tmp_path))


def test_weights_that_a_checkpoint_brings_are_the_ones_that_count(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0)}])
    out = tmp_path / "out"
    predict(module, None, VGGishEmbeddingWriter(out))
    state = {"weight": torch.zeros(1)}
    torch.save({"state_dict": state, "pytorch-lightning_version": pl.__version__}, tmp_path / "c")
    with pytest.raises(ValueError, match="state_sha256"):
        predict(module, None, VGGishEmbeddingWriter(out), ckpt_path=tmp_path / "c")


def test_a_module_s_own_provenance(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0)}])
    module.provenance = lambda: {"weights_sha256": "aa", "made": "by hand"}
    embeddings = VGGishEmbeddingWriter(tmp_path)
    predict(module, None, embeddings)
    assert embeddings.folder.manifest["provenance"] == module.provenance()


def test_a_module_that_says_nothing_of_itself_is_not_resumed(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0)}])
    del module.weight
    predict(module, None, VGGishEmbeddingWriter(tmp_path))
    with pytest.raises(ValueError, match="Expected to know which weights"):
        predict(module, None, VGGishEmbeddingWriter(tmp_path))


@pytest.mark.slow
def test_a_folder_that_another_job_writes_is_refused(tmp_path):
    module = Own([{"id": ["a"], "embedding": rows(1.0)}])
    out = tmp_path / "out"
    with EmbeddingFolder(out).lock(), pytest.raises(OSError, match="is writing"):
        predict(module, None, VGGishEmbeddingWriter(out))
    predict(module, None, VGGishEmbeddingWriter(out))
    broken = Own([{"id": ["b"], "embedding": rows(1.0)}, {"id": ["c"]}])
    with pytest.raises(Exception, match="embedding"):
        predict(broken, None, VGGishEmbeddingWriter(out))
    predict(module, None, VGGishEmbeddingWriter(out))  # which the one that failed has let go of
    assert not (out / ".embeddings.lock").exists()


def test_weights_that_changed_in_memory_are_refused(small_model_folder, tmp_path):
    pipe = VGGishPipeline.from_pretrained(small_model_folder)
    predict(VGGishEmbedder(pipe), files(PATHS[:1]), VGGishEmbeddingWriter(tmp_path / "out"))
    with torch.no_grad():
        pipe.model.fc2.weight.mul_(2)
    with pytest.raises(ValueError, match=r"weights_sha256: '.*', now 'in-memory:"):
        predict(VGGishEmbedder(pipe), files(PATHS), VGGishEmbeddingWriter(tmp_path / "out"))


def test_a_failure_takes_its_parts_back(tmp_path):
    module = Own(
        [
            {"id": ["a"], "embedding": rows(1.0), "is_last": [False]},
            {"id": ["b"], "embedding": rows(2.0), "failed": [("a", "broken off")]},
        ]
    )
    embeddings = VGGishEmbeddingWriter(tmp_path)
    predict(module, None, embeddings)
    assert read(tmp_path)["id"].to_pylist() == ["b"]
    assert embeddings.folder.failed() == {"a": "broken off"}
    module.predictions.append({"id": ["a"], "embedding": rows(3.0)})  # a repetition that goes well
    predict(module, None, VGGishEmbeddingWriter(tmp_path))
    assert read(tmp_path).sort_by("id")["embedding"].to_pylist() == [[3.0] * 4, [2.0] * 4]
    assert embeddings.folder.failed() == {}


def test_memory_is_that_of_a_part(tmp_path):
    alive = []
    most = 0

    class Many(Own):
        def predict_step(self, batch, batch_idx):
            nonlocal most
            embedding = torch.zeros(1, 4)
            alive.append(weakref.ref(embedding.untyped_storage()))
            most = max(most, sum(storage() is not None for storage in alive))
            return {"id": [f"{batch_idx:03}"], "embedding": embedding}

    module = Many([None] * 100)
    assert predict(module, None, VGGishEmbeddingWriter(tmp_path, clips_per_part=5)) is None
    assert module.trainer.predict_loop.predictions == []
    assert len(read(tmp_path)) == 100
    assert len(list(tmp_path.glob("*.parquet"))) == 20
    assert most <= 5 + 2


def test_long_clips_make_parts_of_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_PART_ROWS", 6)
    predictions = [
        {"id": [f"{i}"], "embedding": torch.zeros(3, 4), "num_examples": [3]} for i in range(5)
    ]
    predict(Own(predictions), None, VGGishEmbeddingWriter(tmp_path))
    lengths = [len(pq.read_table(path)) for path in sorted(tmp_path.glob("*.parquet"))]
    assert lengths == [6, 6, 3]


def test_many_failures_are_listed_in_a_file(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    failed = [(f"{number:02}", "gone") for number in range(25)]
    module = Own([{"id": [], "embedding": torch.empty(0, 4), "failed": failed}])
    predict(module, None, VGGishEmbeddingWriter(tmp_path))
    (report,) = [text for text in caplog.messages if "clips in" in text]
    lines = report.splitlines()
    assert lines[0] == f"0 clips in {tmp_path}, 25 failed"
    assert lines[1:11] == [f"failed: {number:02}: gone" for number in range(10)]
    assert lines[11:] == [f"all that failed: {EmbeddingFolder(tmp_path).failed_path}"]


def test_predictions_that_are_refused_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="return a dict with `id` and `embedding`"):
        predict(Own([torch.zeros(1, 4)]), None, VGGishEmbeddingWriter(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# Two processes


@pytest.fixture
def start(tmp_path):
    """Start a run of two processes; at the end whatever is left of it is killed."""
    groups = []

    def run(notes, *arguments):
        notes.mkdir()
        command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), str(notes)]
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        groups.append(process)
        return process

    yield run
    for process in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def finish(process):
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def wait_for(paths, process):
    end = time.monotonic() + SECONDS
    while not all(path.exists() for path in paths):
        if process.poll() is not None:
            pytest.fail(process.communicate()[0])
        assert time.monotonic() < end
        time.sleep(0.05)


def computed_by(notes):
    return [
        path.read_text().splitlines() if path.exists() else []
        for path in (notes / "computed-0", notes / "computed-1")
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes")
def test_a_killed_run_is_resumed(start, small_model_folder, tmp_path, expected):
    out, arguments = tmp_path / "out", ("files", small_model_folder, AUDIO)
    killed = start(tmp_path / "first", "stall", *arguments)
    # Each process sleeps behind its first part.
    wait_for([tmp_path / "first" / f"stalled-{rank}" for rank in (0, 1)], killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    parts = {path: path.read_bytes() for path in out.glob("*.parquet")}
    assert sorted(path.name.rpartition("-")[0] for path in parts) == [
        "part-00000-00000",
        "part-00001-00000",
    ]
    done = list(EmbeddingFolder(out).completed_ids())
    assert 0 < len(done) == len(set(done)) <= 4
    assert sorted(set(read(out)["id"].to_pylist())) == sorted(done)
    whole = expected.filter(pyarrow.compute.field("id").isin(done))
    assert_same_rows(read(out), whole)  # clips are there with all of their rows
    # A process that was killed while it wrote leaves such a file.
    (out / ".part-00001-00001-01234567.parquet.89ab.unfinished").write_bytes(b"PAR1")

    output = finish(start(tmp_path / "second", "go", *arguments))
    first, second = computed_by(tmp_path / "second")
    assert first
    assert second
    assert not set(first) & set(second)
    assert {*first, *second} == set(PATHS) - set(done)
    assert_same_rows(read(out), expected)
    assert {path: path.read_bytes() for path in parts} == parts
    assert not list(out.glob(".*.unfinished"))
    embedded = set(expected["id"].to_pylist())
    failed = EmbeddingFolder(out).failed()
    assert failed.keys() == set(PATHS) - embedded
    assert output.count(f"{len(embedded)} clips in {out}, {len(failed)} failed") == 1


@pytest.mark.slow
def test_what_a_sampler_repeats_is_there_once(start, tmp_path):
    finish(start(tmp_path / "notes", "go", "own", 7))
    first, second = computed_by(tmp_path / "notes")
    assert len(first) == len(second) == 4
    assert set(first) & set(second)  # seven clips for two processes
    table = read(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == [f"clip {number}" for number in range(7)]
    assert table["embedding"].to_pylist() == [[number] * 8 for number in range(7)]
