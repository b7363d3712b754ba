import dataclasses
import json

import pytest

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
        ({"sampling_rate": 0}, "`sampling_rate` to be a positive number, got 0"),
        ({"sampling_rate": 16_000.5}, "`sampling_rate` to be an int, got 16000.5"),
        ({"num_mel_bins": True}, "`num_mel_bins` to be a positive number, got True"),
        ({"hop_seconds": 1e-6}, "`hop_seconds` of at least one sample"),
        ({"mel_max_hz": 9_000.0}, "<= `sampling_rate` / 2, got 125.0, 9000.0 and 16000"),
        ({"example_hop_seconds": 0.005}, r"multiple of 0.01 s \(one frame\), got 0.005"),
        ({"example_seconds": float("nan")}, "`example_seconds` to be a positive number, got nan"),
        ({"example_seconds": float("inf")}, "`example_seconds` to be a positive number, got inf"),
        ({"log_offset": "0.01"}, "`log_offset` to be a positive number, got '0.01'"),
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
        ({"hidden_size": 0}, "sizes from 1 to 65536"),
        ({"hidden_size": 10**10}, "sizes from 1 to 65536"),
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


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VGGishConfig().hidden_size = 1
