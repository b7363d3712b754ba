import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from folders import TESTS

from vggish_hf import VGGishFeatureConfig, VGGishFeatureExtractor, VGGishOutput, VGGishPipeline
from vggish_hf.audio import AudioError, AudioLimits, load_audio, open_audio
from vggish_hf.inputs import find_clips

# Batches of other sizes add in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
# A float32 waveform filtered in other blocks: the error of the log-mel, through the network.
BLOCK_TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture
def pipe(small_model_folder):
    return VGGishPipeline.from_pretrained(small_model_folder)


@pytest.fixture
def clips(generator):
    lengths = [100, 15_600, 160_000, 1, 40_000, 700_000, 15_599, 33_000]
    return [(0.1 * torch.randn(length, generator=generator), 16_000) for length in lengths]


@torch.no_grad()
def embed_slowly(pipe, clip):
    return pipe.model(pipe.extractor(*clip))


def test_one_clip(pipe, clips):
    out = pipe(clips[2])
    assert out.embeddings.dtype == torch.float32
    assert torch.allclose(out.embeddings, embed_slowly(pipe, clips[2]), **TOLERANCE)
    assert out.start_seconds.tolist() == pytest.approx([0.96 * i for i in range(10)])
    assert out.start_seconds.dtype == torch.float64
    assert out.index == 0


@pytest.mark.parametrize("batch_size", [1, 3, 32, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_unequal_lengths_in_any_batch(pipe, clips, batch_size, num_workers):
    outputs = list(pipe.stream(clips, batch_size=batch_size, num_workers=num_workers))
    assert [out.index for out in outputs] == list(range(len(clips)))
    for out, clip in zip(outputs, clips, strict=True):
        assert torch.allclose(out.embeddings, embed_slowly(pipe, clip), **TOLERANCE)


def test_batches_are_filled_across_clips(pipe, clips):
    sizes = []
    hook = pipe.model.register_forward_hook(lambda _module, inputs, _: sizes.append(len(inputs[0])))
    try:
        list(pipe.stream(clips, batch_size=16))
    finally:
        hook.remove()
    # The last, which may be smaller, runs beside others.
    assert sizes.count(16) >= len(sizes) - 1 > 0
    assert all(0 < size <= 16 for size in sizes)


def test_list_in_list_out(pipe, clips):
    outputs = pipe(clips)
    assert [len(out.embeddings) for out in outputs] == [1, 1, 10, 1, 2, 45, 1, 2]
    assert pipe([]) == []


def test_every_kind_of_input_gives_the_same(pipe, tmp_path):
    path = TESTS / "data" / "audio_cases" / "harritaylor__test.wav"
    waveform, rate = load_audio(path)
    expected = pipe(path).embeddings
    with path.open("rb") as file:
        inputs = [
            str(path),
            path.read_bytes(),
            file,
            (waveform, rate),
            (waveform[None].expand(2, -1), rate),
            {"array": waveform.numpy(), "sampling_rate": rate},
            {"bytes": path.read_bytes(), "path": None},
            {"bytes": None, "path": str(path)},
        ]
        for out in pipe(inputs):
            assert torch.allclose(out.embeddings, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["librosa__198-209-0000.ogg", "facebookresearch__bach.mp3"])
def test_real_files_equal_one_shot(pipe, name):
    path = TESTS / "data" / "audio_cases" / name
    expected = embed_slowly(pipe, load_audio(path))
    assert torch.allclose(pipe(path).embeddings, expected, **BLOCK_TOLERANCE)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_long_file_has_no_seams(pipe, rate, tmp_path, generator):
    # Ninety seconds: the decoder's blocks are of twenty, the front end's of thirty.
    waveform = 0.1 * torch.randn(90 * rate + 123, 2, generator=generator)
    path = tmp_path / "long.wav"
    soundfile.write(path, waveform.numpy(), rate, subtype="FLOAT")
    expected = embed_slowly(pipe, (waveform.mean(1), rate))
    out = pipe(path)
    assert out.embeddings.shape == expected.shape == (93, 128)
    assert torch.allclose(out.embeddings, expected, **BLOCK_TOLERANCE)


def test_postprocess(pipe, clips):
    none = pipe(clips[2])
    pca = pipe(clips[2], postprocess="pca")
    uint8 = pipe(clips[2], postprocess="uint8")
    postprocessor = pipe.model.postprocessor
    assert torch.allclose(pca.embeddings, postprocessor(none.embeddings), **TOLERANCE)
    exact = postprocessor.quantize(postprocessor(none.embeddings.double()))
    assert uint8.embeddings.dtype == torch.uint8
    assert torch.equal(uint8.embeddings, exact)


def test_postprocess_needs_a_postprocessor(tiny_model_folder):
    pipe = VGGishPipeline.from_pretrained(tiny_model_folder)
    with pytest.raises(
        ValueError, match="postprocess='pca' needs a model with a post-processor, this one has"
    ):
        pipe((torch.zeros(100), 16_000), postprocess="pca")


def test_any_sequence_of_clips_is_many(pipe, tmp_path):
    pd = pytest.importorskip("pandas")
    for number in range(3):
        sound = np.sin(np.arange(16_000 * (number + 1)) / 10)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16_000)
    paths = sorted(tmp_path.glob("*.wav"))
    names = [str(path) for path in paths]
    expected = [len(pipe(path)) for path in paths]
    assert expected == [1, 2, 3]
    for inputs in (
        paths,
        tuple(paths),
        tuple(names),
        np.array(names),
        np.array(paths, dtype=object),
        pd.Series(names),
        deque(names),
        tmp_path.glob("[0-2].wav"),
        (path for path in paths),
        find_clips([str(tmp_path)]),
        tuple((torch.zeros(16_000 * count), 16_000) for count in (1, 2, 3)),
    ):
        assert sorted(map(len, pipe(inputs))) == expected
    # two of them are no array and its rate
    assert [len(out) for out in pipe(tuple(names[:2]))] == [1, 2]
    one = pipe(find_clips([str(tmp_path)])[0])
    assert isinstance(one, VGGishOutput)


def test_a_lazy_column_is_many(pipe, tmp_path):
    datasets = pytest.importorskip("datasets")
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(16_000 * (number + 1)), 16_000)
    paths = [str(path) for path in sorted(tmp_path.glob("*.wav"))]
    rows = datasets.Dataset.from_dict({"audio": paths, "path": paths})
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    for column in (rows["audio"], rows["path"], rows.with_format("numpy")["path"]):
        assert [len(out) for out in pipe(column)] == [1, 2]


def test_a_numpy_rate_makes_a_pair_and_no_list(pipe):
    for wave in (torch.zeros(32_000), np.zeros(32_000)):
        out = pipe((wave, np.int64(16_000)))
        assert isinstance(out, VGGishOutput)


@pytest.mark.parametrize(
    "array", [torch.zeros(16_000), np.zeros(16_000), torch.zeros(2, 16_000), None, 5]
)
def test_an_array_without_a_rate_is_no_list_of_clips(pipe, array):
    with pytest.raises(TypeError, match=r"input 0: Expected audio as a path"):
        pipe(array)


@pytest.mark.parametrize("inputs", ["a.wav", b"RIFF", {"path": "a.wav"}, (torch.zeros(9), 16_000)])
def test_a_stream_of_one_clip_is_a_mistake(pipe, inputs):
    with pytest.raises(ValueError, match=r"Expected many clips, got one .*; pass it in a list"):
        pipe.stream(inputs)


def test_limits(pipe, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(48_000), 16_000)
    limits = AudioLimits(max_seconds=2)
    reported = []
    for isolated in (False, True):
        assert len(pipe(tmp_path / "long.wav", isolated=isolated)) == 3
        with pytest.raises(AudioError, match=r"long\.wav: Expected audio of at most 2 seconds"):
            pipe(tmp_path / "long.wav", limits=limits, isolated=isolated)
        clips = [tmp_path / "long.wav", (torch.zeros(48_000), 16_000)]
        outputs = pipe.stream(
            clips, limits=limits, isolated=isolated, on_error=lambda i, *_: reported.append(i)
        )
        assert [out.index for out in outputs] == [1]
    assert reported == [0, 0]


def child_processes():
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {pid for path in children for pid in path.read_text().split()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_isolated_decoding_is_in_other_processes_and_gives_the_same(pipe):
    paths = [
        TESTS / "data" / "audio_cases" / name
        for name in ("librosa__198-209-0000.ogg", "facebookresearch__bach.mp3")
    ]
    before = child_processes()
    stream = pipe.stream(paths, isolated=True)
    first = next(stream)
    assert child_processes() > before
    outputs = [first, *stream]
    assert child_processes() == before
    for isolated, here in zip(outputs, pipe(paths), strict=True):
        assert torch.equal(isolated.embeddings, here.embeddings)
    stream = pipe.stream(paths, isolated=True)
    next(stream)
    stream.close()
    assert child_processes() == before


def test_decode_takes_the_place_of_limits(pipe):
    for options in ({"isolated": True}, {"limits": AudioLimits(max_seconds=1)}):
        with pytest.raises(ValueError, match="either `decode` or `limits`"):
            pipe.stream([], decode=open_audio, **options)


class TestNamesInErrors:
    def test_each_kind_of_input(self, pipe, tmp_path):
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"RIFF....WAVE")
        good = (torch.zeros(16_000), 16_000)
        for source in (broken, str(broken), {"path": str(broken)}, find_clips([str(broken)])[0]):
            with pytest.raises(AudioError) as raised:
                pipe([good, source])
            assert str(raised.value).startswith(f"{broken}: libsndfile")
        with broken.open("rb") as file, pytest.raises(AudioError) as raised:
            pipe([good, file])
        assert str(raised.value).startswith(f"{broken}: libsndfile")
        with pytest.raises(AudioError, match=r"^input 1: libsndfile"):
            pipe([good, broken.read_bytes()])

    def test_a_name_is_not_said_twice(self, pipe, tmp_path):
        gone = tmp_path / "gone.wav"
        with pytest.raises(FileNotFoundError) as raised:
            pipe(gone)
        assert str(raised.value).count(str(gone)) == 1

    def test_secrets_are_not_shown(self, pipe):
        for address in (
            "https://me:word@localhost:9/a.wav",
            "https://localhost:9/a.wav?X-Amz-Signature=word",
        ):
            with pytest.raises(ValueError, match=r"find_clips\(\[url\]\)") as raised:
                pipe([address])
            assert "word" not in str(raised.value)
            assert "https://localhost:9/a.wav" in str(raised.value)
            failed = tuple(find_clips([address]))
            with pytest.raises(OSError, match=r"https://localhost:9/a\.wav") as raised:
                pipe(failed)
            assert "word" not in str(raised.value)

    @pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes UTF-8 names alone")
    def test_a_name_that_is_no_text(self, pipe, tmp_path):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
        Path(path).write_bytes(b"RIFF....WAVE")
        with pytest.raises(AudioError, match="libsndfile") as raised:
            pipe(path)
        str(raised.value).encode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"postprocess": "int8"}, "`postprocess` to be one of 'none', 'pca', 'uint8', got 'int8'"),
        ({"batch_size": 0}, "`batch_size` of at least 1, got 0"),
        ({"num_workers": 0}, "`num_workers` of at least 1, got 0"),
    ],
)
def test_arguments_are_checked_at_once(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream([], **options)


@pytest.mark.parametrize(
    ("padding", "of_a_moment", "of_two_seconds"),
    [(None, 1, 2), ("none", 0, 2), ("short", 1, 2), ("tail", 1, 3)],
)
def test_padding(padding, of_a_moment, of_two_seconds, small_model_folder):
    pipe = VGGishPipeline.from_pretrained(small_model_folder, padding=padding)
    moment = pipe((torch.zeros(100), 16_000), postprocess="uint8").embeddings
    assert (moment.shape, moment.dtype) == ((of_a_moment, 128), torch.uint8)
    assert len(pipe((torch.zeros(32_000), 16_000)).embeddings) == of_two_seconds


def test_overlap(small_model_folder, clips):
    half = VGGishPipeline.from_pretrained(small_model_folder, example_hop_seconds=0.48)
    out = half(clips[2])
    assert out.start_seconds.tolist() == pytest.approx([0.48 * i for i in range(19)])
    assert torch.allclose(out.embeddings, embed_slowly(half, clips[2]), **TOLERANCE)


def test_saved_padding_is_kept(small_model, tmp_path):
    tail = VGGishFeatureExtractor(VGGishFeatureConfig(padding="tail"))
    VGGishPipeline(tail, small_model).save_pretrained(tmp_path)
    assert VGGishPipeline.from_pretrained(tmp_path).extractor.config.padding == "tail"


def test_dtypes(small_model_folder, clips):
    single = VGGishPipeline.from_pretrained(small_model_folder)(clips[2]).embeddings
    double = VGGishPipeline.from_pretrained(small_model_folder, dtype=torch.float64)
    assert double(clips[2]).embeddings.dtype == torch.float64
    assert torch.allclose(double(clips[2]).embeddings.float(), single, **BLOCK_TOLERANCE)
    half = VGGishPipeline.from_pretrained(small_model_folder, dtype=torch.bfloat16)
    embeddings = half(clips[2]).embeddings
    assert embeddings.dtype == torch.float32
    # bfloat16 has eight bits of mantissa.
    assert (embeddings - single).norm() / single.norm() < 0.03


def test_a_bad_clip_raises_or_is_reported(pipe, clips, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF....WAVE")
    inputs = [clips[0], broken, clips[1], (torch.full((99_999,), torch.nan), 16_000), clips[4]]
    with pytest.raises(AudioError, match="libsndfile") as raised:
        list(pipe.stream(inputs))
    assert str(raised.value).startswith(f"{broken}: libsndfile cannot open it")
    reported = []
    outputs = list(pipe.stream(inputs, on_error=lambda *found: reported.append(found)))
    assert [out.index for out in outputs] == [0, 2, 4]
    for out in outputs:
        expected = embed_slowly(pipe, inputs[out.index])
        assert torch.allclose(out.embeddings, expected, **TOLERANCE)
    assert [(index, source is inputs[index]) for index, source, _ in reported] == [
        (1, True),
        (3, True),
    ]
    assert "finite" in str(reported[1][2])


def test_a_failed_clip_leaves_no_thread_though_nothing_collects_cycles(pipe):
    before = threading.active_count()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="finite samples"):
            pipe((torch.full((99_999,), torch.nan), 16_000))
        assert threading.active_count() == before
    finally:
        gc.enable()


def test_what_the_network_raises_is_no_clip_s_fault(pipe, clips):
    pipe.model._config = dataclasses.replace(pipe.model.config, num_mel_bins=32)
    with pytest.raises(ValueError, match="Expected examples of shape"):
        list(pipe.stream(clips, on_error=lambda *_: pytest.fail("a clip was blamed")))


def test_a_clip_that_breaks_off_gives_no_rows(pipe, generator):
    # The first blocks are in the network when the last one turns out to be broken.
    waveform = 0.1 * torch.randn(16_000 * 200, generator=generator)
    waveform[-1] = torch.inf
    good = (waveform[:16_000], 16_000)
    reported = []
    inputs = [good, (waveform, 16_000), good]
    outputs = list(pipe.stream(inputs, batch_size=7, on_error=lambda i, *_: reported.append(i)))
    assert [out.index for out in outputs] == [0, 2]
    assert reported == [1]
    assert torch.allclose(outputs[1].embeddings, outputs[0].embeddings, **TOLERANCE)


def test_inputs_are_read_as_needed(pipe):
    drawn = []

    def endless():
        for i in itertools.count():
            drawn.append(i)
            yield torch.zeros(16_000), 16_000

    stream = pipe.stream(endless(), batch_size=4, num_workers=2)
    before = threading.active_count()
    for _ in range(3):
        next(stream)
    # A batch for each thread of the network and one that waits; and what is decoded.
    assert len(drawn) <= 4 * (torch.get_num_threads() + 1) + 2
    stream.close()
    assert threading.active_count() <= before


def test_provenance(pipe, small_model_folder):
    provenance = json.loads(json.dumps(pipe.provenance("pca")))
    assert provenance["model"] == str(small_model_folder)
    assert provenance["postprocess"] == "pca"
    assert provenance["dtype"] == "float32"
    assert provenance["feature_config"]["padding"] == "short"
    assert provenance["config"]["hidden_size"] == 16
    digest = subprocess.run(
        ["sha256sum", small_model_folder / "model.safetensors"], capture_output=True, check=True
    )
    assert provenance["weights_sha256"] == digest.stdout.split()[0].decode()


def test_it_says_what_it_is(pipe, small_model, small_model_folder):
    shown = f"VGGishPipeline(model: {str(small_model_folder)!r}, device: cpu, dtype: float32)"
    assert repr(pipe) == shown
    made = VGGishPipeline(VGGishFeatureExtractor(), small_model)
    assert repr(made) == "VGGishPipeline(model: of no file, device: cpu, dtype: float32)"


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_a_dtype_by_its_name(small_model_folder, name):
    pipe = VGGishPipeline.from_pretrained(small_model_folder, dtype=name)
    assert pipe.model.dtype == getattr(torch, name)
    assert f"dtype: {name}" in repr(pipe)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hop": 0.5}, TypeError, "among revision, .*, padding, example_hop_seconds, got "),
        ({"hop": 0.5}, TypeError, r"got 'hop'$"),
        ({"dtype": "int8"}, ValueError, "`dtype` to be one of 'float32', .* got 'int8'"),
        ({"device": "abacus"}, ValueError, "a device of this machine, got 'abacus'"),
        pytest.param(
            {"device": "cuda"},
            ValueError,
            "a device of this machine, got 'cuda'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_options_are_checked_before_anything_is_fetched(options, error, message):
    with pytest.raises(error, match=message):
        VGGishPipeline.from_pretrained("org/none", **options)


def test_extractor_and_model_must_fit(small_model):
    extractor = VGGishFeatureExtractor(VGGishFeatureConfig(num_mel_bins=32))
    with pytest.raises(ValueError, match=r"examples of \(96, 64\), got one that makes \(96, 32\)"):
        VGGishPipeline(extractor, small_model)


LONG_FILE = """
import re, sys
from pathlib import Path
from vggish_hf import VGGishPipeline
out = VGGishPipeline.from_pretrained(sys.argv[1])(sys.argv[2])
# not ru_maxrss, which begins with the parent's
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(len(out.embeddings), int(peak) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_three_hours_stay_in_bounded_memory(small_model_folder, tmp_path):
    path = tmp_path / "long.flac"
    rng = np.random.Generator(np.random.PCG64(0))
    minute = rng.integers(-3000, 3000, (60 * 44_100, 2), dtype=np.int16)
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
        for _ in range(180):
            file.write(minute)
    command = [sys.executable, "-c", LONG_FILE, small_model_folder, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    examples, megabytes = map(int, done.stdout.split())
    assert examples == 1 + (180 * 60 * 16_000 - 15_600) // 15_360
    # 3.6 GiB as float32; the full-size weights would add 275 MiB.
    assert megabytes < 1536 - 275


def test_outputs_serve_training(pipe, clips):
    head = torch.nn.Linear(128, 2)
    head(pipe(clips[2]).embeddings).sum().backward()
    assert head.weight.grad.abs().sum() > 0
