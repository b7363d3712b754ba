import dataclasses
import json

import pytest
from fuzzing import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vggish_hf import VGGishConfig, VGGishFeatureConfig


def test_derived_values_are_the_references():
    config = VGGishFeatureConfig()
    assert config.window_length == 400
    assert config.hop_length == 160
    assert config.fft_length == 512
    assert config.example_frames == config.example_hop_frames == 96
    assert config.example_length == 15_600
    assert config.example_hop_length == 15_360


@pytest.mark.parametrize(
    ("samples", "none", "short", "tail"),
    [
        (1, 0, 1, 1),
        (15_599, 0, 1, 1),
        (15_600, 1, 1, 1),
        (15_601, 1, 1, 2),
        (30_959, 1, 1, 2),
        (30_960, 2, 2, 2),
        (160_000, 10, 10, 11),
    ],
)
def test_num_examples(samples, none, short, tail):
    counts = {"none": none, "short": short, "tail": tail}
    for padding, expected in counts.items():
        assert VGGishFeatureConfig(padding=padding).num_examples(samples) == expected


@pytest.mark.parametrize("hop", [0.01, 0.48, 0.96, 2.0])
@pytest.mark.parametrize("samples", [1, 15_599, 15_600, 16_000, 31_999, 32_000, 32_001, 99_999])
def test_tail_padding_covers_every_sample_with_the_fewest_examples(hop, samples):
    config = VGGishFeatureConfig(example_hop_seconds=hop, padding="tail")
    count = config.num_examples(samples)
    starts = [i * config.example_hop_length for i in range(count)]
    assert starts[-1] < samples
    in_an_example = max(starts[-1] + config.example_length, count * config.example_hop_length)
    assert in_an_example >= samples
    if count > 1:  # without the last one, something would be in none
        assert starts[-2] + config.example_length < samples


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"padding": "both"}, "`padding` to be one of 'none', 'short', 'tail', got 'both'"),
        ({"sampling_rate": 0}, "`sampling_rate` to be an int from 100 to 1000000, got 0"),
        (
            {"sampling_rate": 16_000.5},
            "`sampling_rate` to be an int from 100 to 1000000, got 16000.5",
        ),
        ({"num_mel_bins": True}, "`num_mel_bins` to be an int from 1 to 1024, got True"),
        ({"hop_seconds": 1e-6}, "`hop_seconds` of at least one sample"),
        ({"mel_max_hz": 9_000.0}, "<= `sampling_rate` / 2, got 125.0, 9000.0 and 16000"),
        ({"example_hop_seconds": 0.005}, r"multiple of 0.01 s \(one frame\), got 0.005"),
        ({"example_seconds": float("nan")}, "`example_seconds` to be a number from .*, got nan"),
        ({"example_seconds": float("inf")}, "`example_seconds` to be a number from .*, got inf"),
        ({"log_offset": "0.01"}, "`log_offset` to be a number from .*, got '0.01'"),
    ],
)
def test_feature_config_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        VGGishFeatureConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conv_channels": (1, 2)}, "six `conv_channels`"),
        ({"conv_channels": 5}, "six `conv_channels`, got 5"),
        ({"hidden_size": 0}, "`hidden_size` to be an int from 1 to 65536, got 0"),
        ({"hidden_size": 10**10}, "`hidden_size` to be an int from 1 to 65536, got 100"),
        ({"embedding_activation": "gelu"}, "one of 'none', 'relu', got 'gelu'"),
        ({"num_frames": 100}, "multiples of 16"),
        ({"postprocessor": 1}, "`postprocessor` to be a bool, got 1"),
    ],
)
def test_model_config_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        VGGishConfig(**values)


@pytest.mark.parametrize("config", [VGGishConfig(hidden_size=7), VGGishFeatureConfig()])
def test_json_round_trip(config):
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert type(config).from_dict(values) == config


def test_unknown_keys_are_named():
    with pytest.raises(
        ValueError, match="VGGishConfig has no 'depth', 'width'; its fields are conv_c"
    ):
        VGGishConfig.from_dict({"width": 1, "depth": 2})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # each alone within its bounds: 2 GB of filters, 64 GB of examples, 0.5 GB of samples
        ({"sampling_rate": 1_000_000, "window_seconds": 1.0}, r"window.* to 16384, got 1000000"),
        ({"example_hop_seconds": 3600.0}, "example_hop_seconds.*, got 57600000"),
        ({"example_seconds": 60.0, "num_mel_bins": 1024}, r"frames .* to 524288, got 6144000"),
    ],
)
def test_feature_config_bounds_the_memory(values, message):
    with pytest.raises(ValueError, match=message):
        VGGishFeatureConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 65_536}, "number of parameters"),
        ({"conv_channels": [65_536] * 6}, "number of parameters"),
        ({"embedding_size": 65_536, "hidden_size": 1, "postprocessor": True}, "number of param"),
        ({"num_frames": 4096, "num_mel_bins": 1024}, "of a layer"),
    ],
)
def test_model_config_bounds_the_memory(values, message):
    if "num_frames" in values:
        values = {**values, "hidden_size": 1}
    with pytest.raises(ValueError, match=message):
        VGGishConfig(**values)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), 1e308, 5e-324, 65_536, 16_000, 0.96, 0.01]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("cls", [VGGishConfig, VGGishFeatureConfig])
@settings(max_examples=cases(200, quick=50), deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_a_file_says_is_a_small_config_or_one_error(cls, data):
    names = [field.name for field in dataclasses.fields(cls)]
    values = data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=4))
    message = ""
    try:
        config = cls.from_dict(values)
    except ValueError as error:
        message = str(error)
    if message:
        assert len(message) < 1000
        assert any(name in message for name in [*names, "number of parameters", "of a layer"])
    elif cls is VGGishFeatureConfig:
        assert config.fft_length <= 1 << 14
        assert config.num_examples(16_000) <= 16_000
    else:
        assert config.flat_size * config.hidden_size < 1 << 30


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VGGishConfig().hidden_size = 1
