"""The command line, called as a user does."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from folders import TESTS

import vggish_hf
from vggish_hf import VGGishModel, VGGishPipeline
from vggish_hf.cli import COMMANDS, audioset, main, make_parser
from vggish_hf.cli._options import DTYPES, in_flags, naming_flags
from vggish_hf.modeling.loading import DTYPES as NETWORK_DTYPES

AUDIO = TESTS / "data" / "audio_cases"
UNREADABLE = {
    "jiaaro__test1_empty.wav",
    "marl__empty.wav",
    "scipy__test-44100Hz-le-1ch-4bytes-incomplete-chunk.wav",
    # An OGG whose stream libsndfile cannot decode and FFmpeg can.
    "jiaaro__bach.ogg",
}


@pytest.fixture
def embed(small_model_folder, tmp_path):
    """Run `embed` with the small model; returns the exit code."""

    def run(*arguments, model=small_model_folder):
        return main(["embed", *map(str, arguments), "--model", str(model)])

    return run


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.sin(np.arange(48_000) / 10), 16_000)
    return path


def test_embed_a_folder(embed, tmp_path, capsys, small_model_folder):
    out = tmp_path / "out.parquet"
    assert embed(AUDIO, "-o", out) == 1
    table = pq.read_table(out)
    captured = capsys.readouterr()
    failed = {Path(line.split(": ")[1]).name for line in captured.err.splitlines()}
    assert UNREADABLE - {"jiaaro__bach.ogg"} <= failed <= UNREADABLE
    readable = {path.name for path in AUDIO.glob("*.*")} - failed - {"index.json"}
    ids = table["id"].to_pylist()
    assert {Path(clip).name for clip in ids} == readable
    assert all(clip.startswith(f"{AUDIO}{os.sep}") for clip in ids)
    assert captured.out == (
        f"{len(table)} examples of {len(readable)} clips in {out}; {len(failed)} failed\n"
    )
    pipe = VGGishPipeline.from_pretrained(small_model_folder)
    for name in ("librosa__198-209-0000.ogg", "rochars__RIFX-16bit-mono.wav"):
        rows = [i for i, clip in enumerate(ids) if clip.endswith(name)]
        part = table.take(rows)
        expected = pipe(AUDIO / name)
        assert part["example"].to_pylist() == list(range(len(expected.embeddings)))
        assert part["start_seconds"].to_pylist() == expected.start_seconds.tolist()
        found = np.stack(part["embedding"].to_numpy())
        assert np.allclose(found, expected.embeddings, rtol=1e-4, atol=1e-5)


def test_provenance_is_in_the_file(embed, clip, tmp_path, small_model_folder):
    out = tmp_path / "out.parquet"
    assert embed(clip, "-o", out, "--postprocess", "pca", "--padding", "tail") == 0
    schema = pq.read_schema(out)
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[128]"
    provenance = json.loads(schema.metadata[b"vggish_hf"])
    assert provenance["version"] == vggish_hf.__version__
    assert provenance["model"] == str(small_model_folder)
    assert len(provenance["weights_sha256"]) == 64
    assert provenance["postprocess"] == "pca"
    assert provenance["feature_config"]["padding"] == "tail"
    assert provenance["config"]["embedding_size"] == 128
    options = provenance["options"]
    assert options.pop("limits")["max_seconds"] == 43_200
    assert options == {"batch_size": 32, "inputs": [str(clip)]}


def test_formats_agree(embed, clip, tmp_path):
    assert embed(clip, "-o", tmp_path / "a.parquet", "--postprocess", "uint8") == 0
    assert embed(clip, "-o", tmp_path / "a.npz", "--postprocess", "uint8") == 0
    assert embed(clip, "-o", tmp_path / "a.tfrecord") == 0
    rows = np.stack(pq.read_table(tmp_path / "a.parquet")["embedding"].to_numpy())
    assert rows.dtype == np.uint8
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["embedding"], rows)
        assert arrays["id"].tolist() == [str(clip)] * 3
        assert arrays["start_seconds"].tolist() == pytest.approx([0, 0.96, 1.92])
    content = (tmp_path / "a.tfrecord").read_bytes()
    assert all(row.tobytes() in content for row in rows)
    assert json.loads((tmp_path / "a.tfrecord.json").read_text())["postprocess"] == "uint8"


def test_overlap_and_precision(embed, clip, tmp_path):
    out = tmp_path / "out.parquet"
    assert embed(clip, "-o", out, "--example-hop", "0.48", "--dtype", "bfloat16") == 0
    table = pq.read_table(out)
    assert table["start_seconds"].to_pylist() == pytest.approx([0, 0.48, 0.96, 1.44, 1.92])


def test_inputs_by_glob_and_list(embed, clip, tmp_path):
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / "Ünï cödé.wav"
    other.write_bytes(clip.read_bytes())
    listed = tmp_path / "list.txt"
    listed.write_text(f"{clip}\n\n{other}\n", encoding="utf-8")
    for inputs in ([listed], [tmp_path / "**/*.wav"], [clip, tmp_path, other]):
        out = tmp_path / "out.parquet"
        assert embed(*inputs, "-o", out) == 0
        ids = pq.read_table(out)["id"].to_pylist()
        assert sorted(set(ids)) == sorted([str(clip), str(other)])
        assert len(ids) == 6


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes UTF-8 names alone")
def test_a_name_that_is_no_text(embed, clip, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.wav")).write_bytes(clip.read_bytes())
    out = tmp_path / "out.npz"
    assert embed(folder, "-o", out) == 0
    with np.load(out) as arrays:
        assert set(arrays["id"]) == {f"{folder}/\\xff.wav"}


def test_if_all_fail_an_older_output_stays(embed, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"older")
    assert embed(tmp_path / "gone.wav", "-o", out) == 1
    assert "no clip was embedded" in capsys.readouterr().err
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_a_clip_without_an_example_is_named(embed, clip, tmp_path, capsys):
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(100), 16_000)
    assert embed(clip, short, "-o", tmp_path / "out.parquet", "--padding", "none") == 0
    captured = capsys.readouterr()
    assert captured.err == f"shorter than an example: {short}\n"
    assert captured.out.startswith("3 examples of 1 clip in ")


def test_a_list_that_is_no_text(embed, tmp_path, capsys):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    assert embed(tmp_path / "list.txt", "-o", tmp_path / "out.npz") == 2
    assert "a list of paths in UTF-8" in capsys.readouterr().err


def test_a_missing_file_is_a_failed_input(embed, clip, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert embed(clip, tmp_path / "gone.wav", "-o", out) == 1
    assert "gone.wav: No such audio file" in capsys.readouterr().err
    assert len(pq.read_table(out)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clip}", "-o", "{tmp}/out.txt"], "in .parquet, .npz, .csv, .tfrecord, or in a slash"),
        (["{clip}", "-o", "{tmp}/no/out.npz"], "the name of a file in an existing folder"),
        (["{tmp}/*.mp3", "-o", "{tmp}/out.npz"], "No audio files found in '{tmp}/*.mp3'; pass"),
        (["{tmp}/empty", "-o", "{tmp}/out.npz"], "No audio files found in '{tmp}/empty'; pass"),
        (["{clip}", "-o", "{tmp}/a.tfrecord", "--postprocess", "pca"], "uint8 embeddings for .tf"),
        (["{clip}", "-o", "{tmp}/out.npz", "--device", "abacus"], "a device of this machine"),
        (["{clip}", "-o", "{tmp}/out.npz", "--batch-size", "0"], "`--batch-size` of at least 1"),
        (["{clip}", "-o", "{tmp}/out.npz", "--example-hop", "0.963"], "a multiple of 0.01"),
        (["{clip}", "-o", "{tmp}/out.npz", "--max-seconds", "0"], "`--max-seconds` to be a pos"),
        (["{clip}", "-o", "{tmp}/out.npz", "--engine", "ray"], "a folder as the output with --eng"),
        (["{clip}", "-o", "{tmp}/out.npz", "--address", "auto"], "as the output with --address"),
        (["{clip}", "-o", "{tmp}/out.npz", "--actors", "2"], "as the output with --actors"),
        (["{clip}", "-o", "{tmp}/o/", "--engine", "ray", "--device", "cuda"], "no `--device` with"),
        (["{clip}", "-o", "{tmp}/o/", "--part-clips", "0"], "`--part-clips` of at least 1"),
        (["{tmp}/*.mp3", "-o", "{tmp}/o/"], "No audio files found in '{tmp}/*.mp3'; pass"),
    ],
)
def test_usage_errors(embed, clip, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert embed(*(text.format(clip=clip, tmp=tmp_path) for text in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("vggish-hf: error: ")
    assert message.replace("{tmp}", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_no_model_is_a_usage_error(embed, clip, tmp_path, capsys):
    assert embed(clip, "-o", tmp_path / "out.npz", model=tmp_path / "none") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert embed(clip, "-o", tmp_path / "out.npz", model="org/none") == 2
    assert "org/none" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_uint8_without_a_postprocessor(embed, clip, tmp_path, capsys, tiny_model_folder):
    arguments = (clip, "-o", tmp_path / "out.tfrecord")
    assert embed(*arguments, model=tiny_model_folder) == 2
    assert "vggish-hf convert --pca" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(clip, tmp_path, small_model_folder):
    folder = tmp_path / "out"
    folder.mkdir()
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{tmp_path}/{i}.wav\n" for i in range(2000)))
    for i in range(2000):
        (tmp_path / f"{i}.wav").symlink_to(clip)  # named, and so followed
    command = [sys.executable, "-m", "vggish_hf.cli", "embed", str(listed)]
    command += ["-o", str(folder / "out.parquet"), "--model", str(small_model_folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not list(folder.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr
    assert not list(folder.iterdir())


def test_convert_and_info(tiny_checkpoint, tmp_path, capsys):
    folder = tmp_path / "tiny"
    assert main(["convert", str(tiny_checkpoint), "-o", str(folder)]) == 0
    assert "16-d embeddings, without post-processor" in capsys.readouterr().out
    assert main(["info", str(folder)]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["config"]["conv_channels"] == [4, 6, 8, 8, 10, 10]
    assert description["parameters"] == sum(
        p.numel() for p in VGGishModel.from_pretrained(folder).parameters()
    )
    assert main(["convert", str(tiny_checkpoint), "-o", str(folder)]) == 2
    assert "a new or empty folder" in capsys.readouterr().err


def test_convert_warns_of_the_ports_relu(tmp_path, capsys, tiny_model_folder):
    model = VGGishModel.from_pretrained(tiny_model_folder)
    names = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13)] + [f"embeddings.{i}" for i in (0, 2, 4)]
    layers = [name for name, module in model.named_children() if name != "postprocessor"]
    state = {
        f"{theirs}.{kind}": model.state_dict()[f"{ours}.{kind}"].clone()
        for theirs, ours in zip(names, layers, strict=True)
        for kind in ("weight", "bias")
    }
    torch.save({**state, "extra.scale": torch.ones(2)}, tmp_path / "port.pth")
    assert main(["convert", str(tmp_path / "port.pth"), "-o", str(tmp_path / "a")]) == 0
    captured = capsys.readouterr()
    assert "torchvggish applies a ReLU" in captured.err
    assert "skipped: extra.scale (2,)" in captured.out
    chosen = ["--embedding-activation", "relu"]
    assert main(["convert", str(tmp_path / "port.pth"), "-o", str(tmp_path / "b"), *chosen]) == 0
    assert "ReLU" not in capsys.readouterr().err
    assert VGGishModel.from_pretrained(tmp_path / "b").config.embedding_activation == "relu"


def test_push(hub, small_model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    (small_model_folder / "notes.txt").write_text("private")
    try:
        assert main(["push", str(small_model_folder), "tester/pushed"]) == 0
    finally:
        (small_model_folder / "notes.txt").unlink()
    assert "tester/pushed" in capsys.readouterr().out
    uploaded = set(hub.files("tester/pushed")) - {".gitattributes"}
    assert uploaded == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert main(["info", "tester/pushed"]) == 0
    assert main(["push", str(tmp_path), "tester/nothing"]) == 2


@pytest.fixture
def run():
    """Run the command line in a process of its own, as a shell does."""

    def run(arguments, before="", redirect="", shell=("bash", "-o", "pipefail", "-c")):
        start = f"{before}; " if before else ""
        code = f"import sys; {start}from vggish_hf.cli import main; sys.exit(main())"
        command = shlex.join([sys.executable, "-c", code, *map(str, arguments)])
        return subprocess.run(
            [*shell, f"{command} {redirect}"],
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )

    return run


def test_demo(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "demo.png"
    assert main(["demo", "-o", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "not Google's" in out
    assert len([line for line in out.splitlines() if " s " in line and "..." in line]) == 11
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["demo", "-o", str(tmp_path / "demo.wav")]) == 2
    assert "a picture that ends in one of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.slow
def test_demo_without_matplotlib(run, tmp_path):
    picture = tmp_path / "demo.png"
    done = run(["demo", "-o", picture], before="sys.modules['matplotlib'] = None")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len([line for line in lines if " s " in line and "..." in line]) == 11
    assert lines[-1] == "for a picture of it: pip install 'vggish-hf[plot]'"
    assert not picture.exists()


def test_version_and_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"vggish-hf {vggish_hf.__version__}\n"
    for command in COMMANDS.keys() - {"train"}:  # whose help is Lightning's
        with pytest.raises(SystemExit, match="0"):
            make_parser().parse_args([command, "--help"])
        text = capsys.readouterr().out
        assert f"usage: vggish-hf {command}" in text
        assert "example" in text or command in ("demo", "audioset")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["audioset", "--help"], ["demo", "--help"], ["sing"]]
)
def test_help_loads_neither_torch_nor_the_hub(arguments):
    code = """
import sys
from vggish_hf.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "numpy", "huggingface_hub", "pyarrow", "fsspec", "lightning"}
    print("loaded:", heavy & sys.modules.keys())
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("loaded: set()\n"), done.stderr
    assert "vggish-hf" in done.stdout + done.stderr


class Recorder:
    """Takes the place of argparse's commands, and keeps what each is said to do."""

    def __init__(self):
        self.found = {}

    def add_parser(self, name, *, help, **options):
        self.found[name] = help
        return argparse.ArgumentParser(name, **options)


@pytest.mark.parametrize("commands", [COMMANDS, audioset.COMMANDS])
def test_the_list_of_commands_says_what_each_command_does(commands):
    recorder = Recorder()
    for command in commands.values():
        import_module(f"vggish_hf.cli.{command.module}").add_parser(recorder)
    assert recorder.found == {name: command.help for name, command in commands.items()}


def test_the_dtypes_are_the_network_s():
    assert set(DTYPES) == set(NETWORK_DTYPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "{clip}", "-o", "{tmp}/a.npz", "--workers", "0"], "`--workers` of at least 1"),
        (["embed", "{clip}", "-o", "{tmp}/a.npz", "--example-hop", "0"], "`--example-hop`"),
        (["embed", "{clip}", "-o", "{tmp}/a.npz", "--postprocess", "pca"], "--postprocess='pca'"),
    ],
)
def test_errors_name_the_flag(arguments, message, clip, tmp_path, capsys, tiny_model_folder):
    arguments = [text.format(clip=clip, tmp=tmp_path) for text in arguments]
    assert main([*arguments, "--model", str(tiny_model_folder)]) == 2
    assert message in capsys.readouterr().err


def test_control_characters_are_escaped(tmp_path, capsys):
    assert main(["info", f"{tmp_path}/a\x1b[2Jb"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vggish-hf: error: ")
    assert "\x1b" not in error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
class TestStreams:
    """Whoever listens, and whether anybody does, changes no work."""

    @pytest.mark.parametrize(
        "redirect",
        ["2>&-", "2>/dev/full", "2> >(exec 0<&-; sleep 9 &)", ">&- 2>&-", "<&- >&- 2>&-"],
    )
    def test_standard_error_may_be_closed_or_full(
        self, redirect, run, clip, tmp_path, small_model_folder
    ):
        if "full" in redirect and not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full")
        out = tmp_path / "out.npz"
        gone = tmp_path / "gone.wav"
        # Warnings are written too, and the line of a clip that failed.
        done = run(
            ["embed", clip, gone, "-o", out, "--model", small_model_folder],
            before="import warnings; warnings.warn('something')",
            redirect=redirect,
        )
        assert done.returncode == 1
        with np.load(out) as arrays:
            assert len(arrays["embedding"]) == 3

    def test_a_reader_that_has_gone_is_no_failure(self, run, clip, tmp_path, small_model_folder):
        out = tmp_path / "out.npz"
        arguments = ["embed", clip, "-o", out, "--model", small_model_folder]
        done = run(arguments, redirect="| true")
        assert (done.returncode, done.stderr) == (0, "")
        assert out.is_file()

    def test_a_reader_that_has_gone_hides_no_output(self, run, clip, tmp_path, small_model_folder):
        # Without a buffer the line that says what was written is the first that fails.
        source = small_model_folder / "model.safetensors"
        shutil.copy(source, tmp_path / "weights")
        commands = [
            (["embed", clip, "-o", "out.npz", "--model", small_model_folder], 0, "out.npz"),
            (["embed", clip, "gone.wav", "-o", "b.csv", "--model", small_model_folder], 1, "b.csv"),
            (["convert", "weights", "-o", "made"], 0, "made/config.json"),
        ]
        for arguments, code, made in commands:
            before = f"import os; os.chdir({str(tmp_path)!r})"
            listener = ["env", "PYTHONUNBUFFERED=1", "bash", "-o", "pipefail", "-c"]
            done = run(arguments, before=before, redirect="| true", shell=listener)
            assert done.returncode == code, done.stderr
            assert (tmp_path / made).is_file()

    @pytest.mark.parametrize("arguments", [["--help"], ["info", "demo"], ["demo"]])
    def test_short_output(self, arguments, run, tmp_path):
        done = run(arguments, before=f"import os; os.chdir({str(tmp_path)!r})", redirect="| true")
        assert (done.returncode, done.stderr) == (0, "")

    def test_long_output_stops(self, run):
        # As `predict` on many files does.
        before = (
            "from vggish_hf.cli import info; "
            "info.run = lambda args: [print('a' * 99) for _ in range(10_000)] and 0"
        )
        done = run(["info", "demo"], before=before, redirect="| true")
        assert (done.returncode, done.stderr) == (141, "")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
    def test_output_that_cannot_be_written_is_an_error(self, run):
        done = run(["info", "demo"], redirect="> /dev/full")
        assert done.returncode == 2
        assert "No space left on device" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["embed"], ["embed", "a.wav"], ["sing"]])
def test_argument_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: vggish-hf" in capsys.readouterr().err


def test_options_are_named_in_texts_but_not_in_paths():
    assert in_flags("`max_seconds`") == "`max_seconds`"
    with naming_flags({"max_seconds": "--max-seconds", "split": "--split"}):
        text = "'a/split=train/b.wav' 'split=x': raise `max_seconds`, or pass split=None"
        assert in_flags(text) == (
            "'a/split=train/b.wav' 'split=x': raise `--max-seconds`, or pass --split=None"
        )
