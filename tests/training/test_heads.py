"""Each head against a slow version that never sees the filling."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vggish_hf.lightning import HeadConfig, make_head

SIZE, CLASSES = 6, 5

CONFIGS = [
    HeadConfig("linear"),
    HeadConfig("mlp", num_layers=2, hidden_size=8),
    HeadConfig("mlp", num_layers=1, hidden_size=8, batch_norm=True),
    HeadConfig("attention", num_layers=0),
    HeadConfig("attention", num_layers=2, hidden_size=8, batch_norm=True, num_heads=4),
    HeadConfig("attention", num_layers=1, hidden_size=8, num_heads=8),
    HeadConfig("decision_attention", num_layers=0),
    HeadConfig("decision_attention", num_layers=3, hidden_size=8, batch_norm=True),
    HeadConfig("pooling_attention", num_layers=0, num_heads=3),
    HeadConfig("pooling_attention", num_layers=2, hidden_size=8, batch_norm=True, num_heads=2),
]
each_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.kind}-{config.num_layers}-{config.num_heads}"
)


@pytest.fixture
def head(config):
    """Random weights, and normalisations that have seen something."""
    torch.manual_seed(0)
    head = make_head(config, SIZE, CLASSES).double()
    for name, buffer in head.named_buffers():
        buffer.uniform_(0.5, 2.0) if "variance" in name else buffer.normal_()
    return head.eval()


@pytest.fixture
def embeddings(generator):
    return torch.randn(4, 5, SIZE, generator=generator, dtype=torch.float64)


@pytest.fixture
def mask():
    return torch.arange(5) < torch.tensor([[5], [1], [2], [3]])


def hidden_slowly(head, row):
    for i, linear in enumerate(head.hidden.linears):
        row = linear(row)
        if head.hidden.norms:
            norm = head.hidden.norms[i]
            row = (row - norm.running_mean) / (norm.running_variance + 1e-5).sqrt()
            row = row * norm.weight + norm.bias
        row = row.clamp(min=0)
    return row


def classify_slowly(config, head, clip):
    """The logits of one clip (examples, size), from the formulas of the papers."""
    if config.kind in ("linear", "mlp"):
        return head.classifier(hidden_slowly(head, sum(clip) / len(clip)))
    if config.kind == "pooling_attention":
        means = []
        for k in range(config.num_heads):
            weight = [head.attention(row)[k].exp() for row in clip]
            means.append(sum(w * row for w, row in zip(weight, clip, strict=True)) / sum(weight))
        return head.classifier(hidden_slowly(head, torch.cat(means)))
    features = [hidden_slowly(head, row) for row in clip]
    if config.kind == "attention":
        pooled = []
        width = len(features[0]) // config.num_heads
        for k in range(config.num_heads):
            weight = [head.attention(row)[k].exp() for row in features]
            parts = [row[k * width : (k + 1) * width] for row in features]
            pooled.append(
                sum(w * part for w, part in zip(weight, parts, strict=True)) / sum(weight)
            )
        return head.classifier(torch.cat(pooled))
    logits = []
    for k in range(CLASSES):
        weight = [head.attention(row)[k].exp() for row in features]
        p = [1 / (1 + (-head.classifier(row)[k]).exp()) for row in features]
        mean = sum(w * q for w, q in zip(weight, p, strict=True)) / sum(weight)
        logits.append((mean / (1 - mean)).log())
    return torch.stack(logits)


@each_config
@pytest.mark.parametrize("batch", [0, 1, 2, 4])
def test_equals_the_slow_version(batch, config, head, embeddings, mask):
    logits = head(embeddings[:batch], mask[:batch])
    assert logits.shape == (batch, CLASSES)
    for clip, keep, row in zip(embeddings, mask, logits, strict=False):
        assert torch.allclose(row, classify_slowly(config, head, clip[keep]))


@each_config
@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("training", [False, True])
def test_filling_has_no_influence(filling, training, head, embeddings, mask):
    head.train(training)
    expected = head(embeddings, mask)
    loss = head(embeddings.masked_fill(~mask[..., None], filling), mask)
    assert torch.equal(loss, expected)
    loss.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in head.buffers())


@each_config
def test_more_filling_changes_nothing(head, embeddings, mask):
    longer = F.pad(embeddings, (0, 0, 0, 3)), F.pad(mask, (0, 3))
    assert torch.allclose(head(*longer), head(embeddings, mask))


@each_config
def test_a_clip_without_examples_is_one_of_a_zero_embedding(head, embeddings, mask):
    mask[1] = False
    zero = torch.zeros(1, 1, SIZE, dtype=torch.float64)
    expected = head(zero, torch.ones(1, 1, dtype=torch.bool))[0]
    logits = head(embeddings, mask)
    assert torch.allclose(logits[1], expected)
    logits.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    nothing = head(embeddings[:, :0], mask[:, :0])
    assert torch.allclose(nothing, expected.expand(4, -1))


@each_config
def test_a_clip_without_examples_is_in_no_statistics(head, embeddings, mask):
    without = copy.deepcopy(head).train()
    without(embeddings[:3], mask[:3])
    mask[3] = False
    head.train()(embeddings, mask)
    for found, expected in zip(head.buffers(), without.buffers(), strict=True):
        assert torch.allclose(found, expected)


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("training", [False, True])
def test_gradient(training, head, embeddings, mask):
    head.train(training)
    assert torch.autograd.gradcheck(
        lambda x: head(x, mask), embeddings.requires_grad_(), check_batched_grad=True
    )


@each_config
def test_every_layer_learns(head, embeddings, mask):
    head.train()(embeddings, mask).square().sum().backward()
    for name, parameter in head.named_parameters():
        # A bias before a softmax or a normalisation changes nothing.
        assert name.endswith("bias") or parameter.grad.norm() > 1e-6, name


@pytest.mark.parametrize("config", [HeadConfig("decision_attention", num_layers=0)])
def test_probabilities_near_zero_and_one(config):
    # As probabilities in float32, the classes would be 0 and 1, and their logits infinite.
    head = make_head(config, 1, 2)
    with torch.no_grad():
        head.attention.weight.zero_()
        head.classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        head.classifier.bias.zero_()
    logits = head(torch.full((1, 3, 1), 200.0), torch.ones(1, 3, dtype=torch.bool))
    assert logits[0].tolist() == pytest.approx([-200.0, 200.0])


def test_dropout_only_in_training(embeddings, mask):
    torch.manual_seed(0)
    head = make_head(HeadConfig("mlp", dropout=0.5), SIZE, CLASSES).double()
    assert not torch.equal(head(embeddings, mask), head(embeddings, mask))
    head.eval()
    assert torch.equal(head(embeddings, mask), head(embeddings, mask))


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("training", [False, True])
def test_compiles_as_one_graph(training, head, embeddings, mask):
    head.train(training)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(embeddings, mask), head(embeddings, mask))


@each_config
def test_autocast(head, embeddings, mask):
    expected = head(embeddings, mask).float()
    head.float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(embeddings.float(), mask)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "mask_shape"), [((2, 5), (2, 5)), ((2, 3, 6), (2, 4)), ((2, 3, 6), (2, 3, 6))]
)
def test_wrong_shapes(shape, mask_shape):
    head = make_head(HeadConfig(), SIZE, CLASSES)
    with pytest.raises(ValueError, match=r"Expected embeddings \(batch, examples, size\) and a"):
        head(torch.zeros(shape), torch.ones(mask_shape, dtype=torch.bool))


def test_heads_that_do_not_divide_the_features():
    with pytest.raises(ValueError, match="a multiple of `num_heads` = 3, got 8"):
        make_head(HeadConfig("attention", hidden_size=8, num_heads=3), SIZE, CLASSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"kind": "lstm"},
            "`kind` to be one of 'linear', 'mlp', 'attention', 'decision_attention'",
        ),
        ({"num_layers": -1}, "`num_layers` from 0 to 16, got -1"),
        ({"num_layers": 1.0}, "`num_layers` from 0 to 16, got 1.0"),
        ({"hidden_size": 0}, "`hidden_size` from 1 to 65536, got 0"),
        ({"num_heads": 0}, "`num_heads` from 1 to 65536, got 0"),
        ({"dropout": 1.0}, "`dropout` from 0 to below 1, got 1.0"),
        ({"batch_norm": 1}, "`batch_norm` to be a bool, got 1"),
        ({"size": 8}, "HeadConfig has no 'size'; its fields are kind, num_layers"),
    ],
)
def test_configs_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        HeadConfig.from_dict(values)


def test_the_linear_head_is_a_linear_layer():
    head = make_head(HeadConfig(num_layers=3), SIZE, CLASSES)
    (linear,) = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert linear.weight.shape == (CLASSES, SIZE)
