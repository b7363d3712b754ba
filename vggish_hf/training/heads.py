"""Heads: from a clip's embeddings to its classes.

A head takes a batch of padded clips with a mask. Its output and its statistics do not depend on the
padding.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vggish_hf._checks import check_choice
from vggish_hf.configuration import FromDict
from vggish_hf.training.masking import MaskedBatchNorm, masked_mean
from vggish_hf.training.plain import to_plain

HeadKind = Literal["linear", "mlp", "attention", "decision_attention", "pooling_attention"]


@dataclass(frozen=True)
class HeadConfig(FromDict):
    """The head, which maps the embeddings of a clip to its classes.

    Args:
        kind: `"linear"`: the mean of the embeddings, and one linear layer. `"mlp"`: the same with
            hidden layers between. `"attention"`: hidden layers for each embedding, then their mean
            weighted by attention, and a linear layer (feature level: Kong et al., "Weakly labelled
            AudioSet tagging with attention neural networks", 2019). `"decision_attention"`: hidden
            layers, then each class's probability for each embedding, and their mean weighted by
            the class's own attention (decision level: Kong et al., "Audio Set classification
            with attention model: a probabilistic perspective", 2018). `"pooling_attention"`: means
            of the embeddings themselves, one weighted mean per head, concatenated, then hidden
            layers, which run once per clip, not per embedding.
        num_layers: Hidden layers of all kinds but `"linear"`: linear, batch normalisation, ReLU,
            dropout.
        hidden_size: Width of each hidden layer.
        dropout: Probability to drop an output of a hidden layer.
        batch_norm: Whether to normalise hidden layers.
        num_heads: Attentions. Those of `"attention"` divide the features equally; as many heads as
            features gives each its own. Those of `"pooling_attention"` see all.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> HeadConfig("decision_attention", num_layers=3, hidden_size=600, dropout=0.5).kind
        'decision_attention'
    """

    kind: HeadKind = "linear"
    num_layers: int = 1
    hidden_size: int = 512
    dropout: float = 0.0
    batch_norm: bool = False
    num_heads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):  # numbers of numpy and torch to Python's
            object.__setattr__(self, field.name, to_plain(getattr(self, field.name), field.name))
        check_choice("kind", self.kind, HeadKind)
        # Bounds, because an untrusted config must not fill the memory.
        for name, smallest, largest in (
            ("num_layers", 0, 16),
            ("hidden_size", 1, 1 << 16),
            ("num_heads", 1, 1 << 16),
        ):
            value = getattr(self, name)
            if type(value) is not int or not smallest <= value <= largest:
                raise ValueError(f"Expected `{name}` from {smallest} to {largest}, got {value!r}")
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"Expected `dropout` from 0 to below 1, got {self.dropout!r}")
        if not isinstance(self.batch_norm, bool):
            raise ValueError(f"Expected `batch_norm` to be a bool, got {self.batch_norm!r}")


def make_head(config: HeadConfig, embedding_size: int, num_classes: int) -> nn.Module:
    """Build a head with random weights.

    Args:
        config: Its kind and sizes.
        embedding_size: Width of an embedding.
        num_classes: The number of classes.

    Returns:
        A module that maps embeddings (batch, examples, embedding_size), float, and a mask (batch,
        examples), False where an embedding is padding, to logits (batch, num_classes), float32
        under autocast too. A clip without examples counts as one zero embedding.

    Raises:
        ValueError: The width is not a multiple of `num_heads`.

    Example:
        >>> head = make_head(HeadConfig("attention", hidden_size=64), 128, num_classes=10)
        >>> head(torch.zeros(2, 5, 128), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 10])
    """
    match config.kind:
        case "attention":
            return AttentionHead(config, embedding_size, num_classes)
        case "decision_attention":
            return DecisionAttentionHead(config, embedding_size, num_classes)
        case "pooling_attention":
            return PoolingAttentionHead(config, embedding_size, num_classes)
        case _:
            return MeanHead(config, embedding_size, num_classes)


class MeanHead(nn.Module):
    """`"linear"` and `"mlp"`: classify the mean of a clip's embeddings; see `make_head`."""

    def __init__(self, config: HeadConfig, embedding_size: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = _HiddenLayers(config, embedding_size)
        self.classifier = nn.Linear(self.hidden.out_size, num_classes)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, examples, size) and (batch, examples) to logits (batch, classes)."""
        embeddings, mask = _without_padding(embeddings, mask)
        x = masked_mean(embeddings, mask)
        x = self.hidden(x, mask.any(1))
        return _at_least_single(self.classifier(x))


class AttentionHead(nn.Module):
    """`"attention"`: classify the mean of a clip's features, weighted by attention."""

    def __init__(self, config: HeadConfig, embedding_size: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = _HiddenLayers(config, embedding_size)
        size = self.hidden.out_size
        if size % config.num_heads:
            raise ValueError(
                f"Expected features of a multiple of `num_heads` = {config.num_heads}, got {size}"
            )
        self.attention = nn.Linear(size, config.num_heads)
        self.classifier = nn.Linear(size, num_classes)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, examples, size) and (batch, examples) to logits (batch, classes)."""
        embeddings, mask = _without_padding(embeddings, mask)
        x = self.hidden(embeddings, mask)
        weights = _log_attention(self.attention(x), mask).exp()  # (batch, examples, heads)
        values = x.unflatten(2, (weights.shape[2], -1))
        pooled = (weights[..., None] * values).sum(1).flatten(1)
        return _at_least_single(self.classifier(pooled))


class DecisionAttentionHead(nn.Module):
    """`"decision_attention"`: each class's probability, its mean over a clip weighted by attention.

    The logit of the mean probability is computed only from logarithms: the weights of a class sum
    to one, so one minus the mean of p is the mean of 1 - p, and neither is rounded to 0 or 1.
    """

    def __init__(self, config: HeadConfig, embedding_size: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = _HiddenLayers(config, embedding_size)
        self.attention = nn.Linear(self.hidden.out_size, num_classes)
        self.classifier = nn.Linear(self.hidden.out_size, num_classes)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, examples, size) and (batch, examples) to logits (batch, classes)."""
        embeddings, mask = _without_padding(embeddings, mask)
        x = self.hidden(embeddings, mask)
        log_weights = _log_attention(self.attention(x), mask)  # (batch, examples, classes)
        scores = _at_least_single(self.classifier(x))
        log_p = torch.logsumexp(log_weights + F.logsigmoid(scores), 1)
        log_not_p = torch.logsumexp(log_weights + F.logsigmoid(-scores), 1)
        return log_p - log_not_p


class PoolingAttentionHead(nn.Module):
    """`"pooling_attention"`: classify several weighted means of a clip's embeddings."""

    def __init__(self, config: HeadConfig, embedding_size: int, num_classes: int) -> None:
        super().__init__()
        self.attention = nn.Linear(embedding_size, config.num_heads)
        self.hidden = _HiddenLayers(config, config.num_heads * embedding_size)
        self.classifier = nn.Linear(self.hidden.out_size, num_classes)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, examples, size) and (batch, examples) to logits (batch, classes)."""
        embeddings, mask = _without_padding(embeddings, mask)
        weights = _log_attention(self.attention(embeddings), mask).exp()
        pooled = (weights.mT @ embeddings).flatten(1)  # (batch, heads * size)
        x = self.hidden(pooled, mask.any(1))
        return _at_least_single(self.classifier(x))


class _HiddenLayers(nn.Module):
    """Linear, normalisation, ReLU and dropout, repeated by the config, row by row."""

    def __init__(self, config: HeadConfig, in_size: int) -> None:
        super().__init__()
        num_layers = 0 if config.kind == "linear" else config.num_layers
        sizes = [in_size] + num_layers * [config.hidden_size]
        self.out_size = sizes[-1]
        self.linears = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.norms = nn.ModuleList(map(MaskedBatchNorm, sizes[1:] if config.batch_norm else []))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if self.norms:
                x = self.norms[i](x, mask)
            x = self.dropout(F.relu(x))
        return x


def _without_padding(embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes and zero the padding; add an example if there are none."""
    if embeddings.ndim != 3 or mask.shape != embeddings.shape[:2]:
        raise ValueError(
            "Expected embeddings (batch, examples, size) and a mask (batch, examples), got "
            f"{tuple(embeddings.shape)} and {tuple(mask.shape)}"
        )
    if not embeddings.shape[1]:
        embeddings, mask = F.pad(embeddings, (0, 0, 0, 1)), F.pad(mask, (0, 1))
    return embeddings.masked_fill(~mask[..., None], 0.0), mask


def _log_attention(scores: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of weights that sum to one over a clip's examples: (batch, examples, heads)."""
    # A softmax needs an example: a clip without examples attends to its padding, zeros.
    attended = mask | ~mask.any(1, keepdim=True)
    scores = _at_least_single(scores).masked_fill(~attended[..., None], -torch.inf)
    return scores.log_softmax(1)


def _at_least_single(x: Tensor) -> Tensor:
    """Cast a linear layer's output back if autocast made it sixteen bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
