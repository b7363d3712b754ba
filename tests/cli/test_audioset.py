"""The commands for AudioSet's clips, called as a user does."""

import re
import shlex

import pytest
from clip_sources import IDS, SPEECH, write_csv, write_folder, write_tar
from datasets import load_dataset
from folders import ROOT

from vggish_hf.cli import main, make_parser

DOCUMENT = ROOT / "docs" / "audioset.md"


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "eval_segments.csv", dict.fromkeys(IDS[:3], (0, 4)))


@pytest.fixture
def audio(tmp_path):
    files = {f"{IDS[0]}.wav": SPEECH, f"{IDS[1]}.wav": b"no audio", f"{IDS[2]}.wav": SPEECH}
    return write_folder(tmp_path / "audio", files)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a command of the group in a folder; gives exit code and both outputs."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["audioset", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_export_and_embed(run, csv, audio, tmp_path, small_model_folder):
    code, out, err = run("export-clips", csv, audio, "-o", "clips")
    assert code == 1
    assert out == "eval: 2 clips in clips/clips/eval-*.parquet; 1 failed\n"
    assert err.startswith(f"failed: {IDS[1]}: ")
    assert "Format not recognised" in err
    assert (tmp_path / "clips" / "failed_clips_eval.csv").read_text().count("\n") == 2

    code, out, err = run("embed", "clips", "-o", "out", "--model", small_model_folder)
    assert (code, err) == (0, "")
    assert out == (
        "eval: 2 clips in out/eval/*.tfrecord and out/embeddings/eval-*.parquet; 0 failed\n"
    )
    dataset = load_dataset("out", "embeddings", split="eval", cache_dir=str(tmp_path / "cache"))
    assert [len(row) for row in dataset["embedding"]] == [4, 4]


def test_embed_audio_with_its_csv(run, csv, audio, small_model_folder):
    options = ("--segments", csv, "--split", "mine", "--model", small_model_folder)
    code, out, err = run("embed", audio, "-o", "out", *options, "--workers", "1")
    assert code == 1
    assert out.startswith("mine: 2 clips in out/mine/*.tfrecord")
    assert err.startswith(f"failed: {IDS[1]}: ")


def test_export_pushes(run, csv, audio, tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    (audio / f"{IDS[1]}.wav").write_bytes(SPEECH)
    code, out, err = run("export-clips", csv, audio, "-o", "clips", "--push", "org/clips-by-cli")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith(f"{hub.url}/datasets/org/clips-by-cli/commit/")
    files = hub.files("org/clips-by-cli", repo_type="dataset")
    name = "clips/eval-00000-of-00001.parquet"
    assert files[name] == (tmp_path / "clips" / name).read_bytes()
    assert b"config_name: clips" in files["README.md"]


def test_of_many_some_are_printed(run, tmp_path):
    ids = [f"{i:011}" for i in range(30)]
    csv = write_csv(tmp_path / "eval_segments.csv", dict.fromkeys(ids, (0, 4)))
    audio = write_folder(tmp_path / "audio", {f"{ids[0]}.wav": SPEECH})
    code, out, err = run("export-clips", csv, audio, "-o", "clips")
    assert code == 1
    assert out.endswith("; 29 failed\n")
    lines = err.splitlines()
    assert len(lines) == 21
    assert lines[0] == (
        f"failed: {ids[1]}: there is no file of it, or only one that is named for other times"
    )
    assert lines[20] == "failed: 9 more, see clips/failed_clips_eval.csv"


def test_what_matches_nothing_is_printed(run, csv, audio, tmp_path):
    write_folder(audio, {f"{number:02}.wav": b"" for number in range(12)})
    (tmp_path / "more").mkdir()
    (audio / f"{IDS[2]}.wav").rename(tmp_path / "more" / f"Title [{IDS[2]}].wav")
    (audio / f"{IDS[1]}.wav").unlink()
    (audio / ".x.wav").touch()
    code, out, err = run("export-clips", csv, audio, "more", "-o", "clips")
    assert (code, out.startswith("eval: 2 clips in ")) == (1, True)
    skipped, unmatched, *_ = err.splitlines()
    assert skipped == f"skipped: {audio}/.x.wav: a hidden file"
    assert unmatched.startswith("12 files are named for none of the clips: ")
    assert unmatched.endswith("09.wav and 2 more")


def test_a_folder_that_holds_an_archive(run, tmp_path, small_model_folder):
    csv = write_csv(tmp_path / "balanced_train_segments.csv", {IDS[0]: (0, 4)})
    folder = tmp_path / "audio"
    folder.mkdir()
    write_tar(folder / "bal_train.tar", {f"bal_train/{IDS[0]}.wav": SPEECH})
    code, out, _ = run("export-clips", csv, folder, "-o", "clips")
    assert (code, out) == (0, "bal_train: 1 clips in clips/clips/bal_train-*.parquet; 0 failed\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export-clips", "mine.csv", "audio", "-o", "out"), "pass `--split`"),
        (("export-clips", "mine.csv", "audio", "-o", "out", "--split", "x"), "mine.csv, line 1: "),
        (
            ("export-clips", "eval_segments.csv", "nowhere", "-o", "out"),
            "No such file or folder: 'nowhere'",
        ),
        (("export-clips", "nowhere.csv", "audio", "-o", "out", "--split", "x"), "No such file"),
        (("embed", "audio", "-o", "out", "--model", "MODEL"), "pass `--segments`"),
        (("embed", "audio", "-o", "out", "--model", "TINY"), "of 128 dimensions"),
    ],
)
def test_mistakes(
    run, csv, audio, tmp_path, arguments, message, small_model_folder, tiny_model_folder
):
    (tmp_path / "mine.csv").write_text("id;start;end;labels\n")
    folders = {"MODEL": small_model_folder, "TINY": tiny_model_folder}
    code, out, err = run(*(folders.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("vggish-hf: error: ")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_every_command_of_the_document_parses():
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = re.findall(r"^vggish-hf (audioset .*)$", text, re.MULTILINE)
    assert {line.split()[1] for line in lines} == {"export-embeddings", "export-clips", "embed"}
    for line in lines:
        make_parser().parse_args(shlex.split(line))
