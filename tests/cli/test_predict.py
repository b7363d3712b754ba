"""`vggish-hf predict`: lines and tables of scores, and what becomes of inputs that fail."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from sounds import write_sounds
from tones import TINY

from vggish_hf import VGGishPipeline
from vggish_hf.cli import main
from vggish_hf.lightning import VGGishClassifier

CLASSES = ["dog", "rain, heavy", "sea"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("predict") / "sounds", clips=2)


@pytest.fixture(scope="module")
def paths(sounds):
    return [str(path) for path in sorted(sounds.rglob("*.wav"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lively_model_folder):
    """A classifier with a network of its own."""
    torch.manual_seed(0)
    classifier = VGGishClassifier(CLASSES, pretrained=str(lively_model_folder))
    path = tmp_path_factory.mktemp("classifiers") / "own"
    classifier.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def head_folder(tmp_path_factory):
    """A head alone, for 128-d embeddings as they come from the network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifiers") / "head"
    VGGishClassifier(CLASSES, "multi_label").save_pretrained(path)
    return path


@pytest.fixture
def predict(folder):
    """Run `predict` with the classifier; returns the exit code."""

    def run(*arguments, classifier=folder):
        return main(["predict", *map(str, arguments), "--classifier", str(classifier)])

    return run


@pytest.fixture
def expected(folder, paths):
    classifier = VGGishClassifier.from_pretrained(folder)
    scores = torch.stack([clip.scores for clip in classifier.classify(paths)])
    assert torch.pdist(scores).min() > 1e-4  # no two clips are the same to it
    return scores


def read_table(path, reader):
    table = reader(path)
    assert table.column_names == ["id", *CLASSES]
    columns = [torch.tensor(table[name].to_pylist()) for name in CLASSES]
    return table["id"].to_pylist(), torch.stack(columns, dim=1)


def test_lines(predict, sounds, paths, expected, capsys):
    assert predict(sounds, "--top", 2) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert len(lines) == len(paths)
    for line, path, scores in zip(lines, paths, expected, strict=True):
        best = sorted(zip(scores.tolist(), CLASSES, strict=True), reverse=True)[:2]
        assert line == f"{path}: " + ", ".join(f"{name} {score:.2f}" for score, name in best)


def test_more_classes_than_there_are(predict, paths, capsys):
    assert predict(paths[0], "--top", 9) == 0
    line = capsys.readouterr().out
    assert all(name in line for name in CLASSES)


@pytest.mark.parametrize(
    ("ending", "reader"), [("csv", pyarrow.csv.read_csv), ("parquet", pq.read_table)]
)
def test_tables(predict, folder, sounds, paths, expected, tmp_path, capsys, ending, reader):
    out = tmp_path / f"out.{ending}"
    assert predict(sounds, "-o", out) == 0
    ids, scores = read_table(out, reader)
    assert ids == paths
    assert torch.allclose(scores, expected, atol=1e-6)
    assert capsys.readouterr().out == f"6 clips in {out}\n"
    metadata = (
        json.loads((tmp_path / "out.csv.json").read_text())
        if ending == "csv"
        else json.loads(pq.read_schema(out).metadata[b"vggish_hf"])
    )
    assert metadata["classifier"] == str(folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert metadata["classifier_sha256"] == hashlib.sha256(weights).hexdigest()
    assert metadata["feature_config"]["padding"] == "short"
    assert metadata["options"]["limits"]["max_seconds"] == 43_200
    beside = [tmp_path / "out.csv.json"] if ending == "csv" else []
    assert sorted(tmp_path.iterdir()) == [out, *beside]


def test_a_table_of_many_rows(predict, paths, tmp_path, monkeypatch):
    monkeypatch.setattr("vggish_hf.cli._scores._GROUP_ROWS", 4)
    assert predict(*paths, "-o", tmp_path / "out.parquet") == 0
    ids, _ = read_table(tmp_path / "out.parquet", pq.read_table)
    assert ids == paths


def test_bad_files_are_named_and_the_others_done(predict, paths, expected, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"junk")
    out = tmp_path / "out.parquet"
    assert predict(paths[0], bad, tmp_path / "gone.wav", paths[1], "-o", out) == 1
    ids, scores = read_table(out, pq.read_table)
    assert ids == paths[:2]
    assert torch.allclose(scores, expected[:2], atol=1e-6)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"failed: {bad}: ")
    assert second.startswith(f"failed: {tmp_path / 'gone.wav'}: No such audio file")


def test_if_all_fail_an_older_output_stays(predict, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_bytes(b"older")
    assert predict(tmp_path / "gone.wav", "-o", out) == 1
    assert capsys.readouterr().err.endswith(f"no clip was classified, {out} is not written\n")
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_if_all_fail_without_an_output(predict, tmp_path, capsys):
    assert predict(tmp_path / "gone.wav") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_a_head_takes_the_embeddings_of_a_model(
    predict, head_folder, small_model_folder, paths, tmp_path
):
    out = tmp_path / "out.parquet"
    arguments = (*paths, "-o", out, "--model", small_model_folder)
    assert predict(*arguments, classifier=head_folder) == 0
    head = VGGishClassifier.from_pretrained(head_folder)
    pipe = VGGishPipeline.from_pretrained(small_model_folder)
    clips = head.classify(paths, pipeline=pipe)
    ids, scores = read_table(out, pq.read_table)
    assert ids == paths
    assert torch.allclose(scores, torch.stack([clip.scores for clip in clips]), atol=1e-6)


def test_the_same_inputs_as_embed(predict, paths, expected, tmp_path, capsys):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        archive.add(paths[0], "a.wav")
    shutil.copy(paths[1], tmp_path / "b.wav")
    (tmp_path / "._b.wav").write_bytes(b"litter")
    (tmp_path / "link.wav").symlink_to(paths[2])
    assert predict(tmp_path / "shard.tar", tmp_path / "*.wav", "--workers", 1, "--top", 1) == 0
    captured = capsys.readouterr()
    ids = [line.split(": ")[0] for line in captured.out.splitlines()]
    assert ids == [f"{tmp_path}/shard.tar/a.wav", f"{tmp_path}/b.wav"]
    assert captured.err.startswith(f"skipped: {tmp_path}/link.wav: a link that leads out")
    best = [CLASSES[scores.argmax()] for scores in expected[:2]]
    assert [line.split(": ")[1].rpartition(" ")[0] for line in captured.out.splitlines()] == best
    assert predict(tmp_path / "*.wav", "--follow-symlinks") == 0
    assert f"{tmp_path}/link.wav: " in capsys.readouterr().out


def test_long_clips_fail(predict, paths, tmp_path, capsys):
    assert predict(paths[0], "--max-seconds", 0.1) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"failed: {paths[0]}: ")
    assert "raise the limit `--max-seconds`" in message
    assert predict(paths[0], "--workers", 0) == 2
    assert "`--workers` of at least 1" in capsys.readouterr().err


def test_a_name_moves_no_cursor(predict, paths, tmp_path, capsys):
    odd = tmp_path / "a\x1b[2J.wav"
    shutil.copy(paths[0], odd)
    assert predict(odd) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_clips_without_an_example_have_no_row(tmp_path, paths, predict, capsys):
    classifier = tmp_path / "classifier"
    VGGishClassifier(CLASSES, config=TINY, feature_config={"padding": "none"}).save_pretrained(
        classifier
    )
    soundfile.write(tmp_path / "short.wav", [0.1] * 800, 16_000)
    inputs = (tmp_path / "short.wav", paths[0])
    assert predict(*inputs, "-o", tmp_path / "out.parquet", classifier=classifier) == 0
    assert read_table(tmp_path / "out.parquet", pq.read_table)[0] == paths[:1]
    captured = capsys.readouterr()
    assert captured.out == f"1 clip in {tmp_path}/out.parquet; 1 shorter than an example\n"
    assert captured.err == f"shorter than an example: {tmp_path}/short.wav\n"
    assert predict(inputs[0], "-o", tmp_path / "none.csv", classifier=classifier) == 0
    assert not (tmp_path / "none.csv").exists()


def test_other_weights_than_it_learnt_from(
    predict, tmp_path, small_model_folder, lively_model_folder, paths, capsys
):
    pipeline = VGGishPipeline.from_pretrained(small_model_folder)
    head = VGGishClassifier(CLASSES, embeddings_from=pipeline.provenance("none"))
    head.save_pretrained(tmp_path / "head")
    assert predict(paths[0], "--model", small_model_folder, classifier=tmp_path / "head") == 0
    assert capsys.readouterr().err == ""
    assert predict(paths[0], "--model", lively_model_folder, classifier=tmp_path / "head") == 0
    error = capsys.readouterr().err
    assert error.startswith("vggish-hf: warning: this classifier learnt from embeddings of ")
    assert str(small_model_folder) in error
    assert pipeline.weights_sha256[:12] in error
    assert error.count("\n") == 1


def test_a_revision_of_the_hub(predict, folder, hub, paths, capsys):
    classifier = VGGishClassifier.from_pretrained(folder)
    classifier.push_to_hub("org/predicted", token=hub.token)
    assert predict(paths[0], "--revision", "main", classifier="org/predicted") == 0
    assert predict(paths[0], "--revision", "main") == 2
    assert "Expected a Hub id for --revision='main'" in capsys.readouterr().err


def test_models_that_do_not_fit(
    predict, head_folder, folder, small_model_folder, tiny_model_folder, paths, capsys
):
    for classifier, model, message in (
        (head_folder, None, f"Expected --model, the network whose embeddings '{head_folder}'"),
        (head_folder, tiny_model_folder, "Expected a model of 128-d embeddings, as "),
        (folder, small_model_folder, f"Expected no --model: '{folder}' has a network of its own"),
        (small_model_folder, None, "Expected the config of a VGGishClassifier in "),
        ("nowhere", None, "Expected"),
    ):
        model = [] if model is None else ["--model", model]
        assert predict(paths[0], *model, classifier=classifier) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"vggish-hf: error: {message}")
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clip}", "-o", "{tmp}/out.npz"], "an output that ends in .csv, .parquet, got"),
        (["{clip}", "-o", "{tmp}/no/out.csv"], "the name of a file in an existing folder"),
        (["{tmp}/*.mp3"], "No audio files found in '"),
        (["{clip}", "--top", "0"], "--top of at least 1, got 0"),
        (["{clip}", "--device", "abacus"], "a device of this machine"),
    ],
)
def test_usage_errors(predict, paths, tmp_path, capsys, arguments, message):
    assert predict(*(text.format(clip=paths[0], tmp=tmp_path) for text in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(("vggish-hf: error: Expected ", "vggish-hf: error: No audio"))
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_is_named_as_the_column_of_paths(predict, paths, tmp_path, capsys):
    classifier = tmp_path / "classifier"
    VGGishClassifier(["id", "ego"], config=TINY).save_pretrained(classifier)
    assert predict(paths[0], "-o", tmp_path / "out.csv", classifier=classifier) == 2
    assert "no class named 'id'" in capsys.readouterr().err
    assert predict(paths[0], classifier=classifier) == 0


@pytest.mark.slow
def test_as_a_user_starts_it(folder, paths):
    command = [sys.executable, "-m", "vggish_hf.cli", "predict", *paths, "--classifier", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == paths
    assert done.stderr == ""


def test_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--help"])
    text = capsys.readouterr().out
    assert "vggish-hf predict street/ --classifier mine/ -o street.csv" in text
