"""Embed clips into a folder on a Ray cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggish_hf.distributed.cluster import ClusterError as ClusterError
from vggish_hf.distributed.ray_data import embed_to_folder as embed_to_folder
from vggish_hf.inputs import Clip
from vggish_hf.jobs import EmbeddingSummary


def embed_dataset(
    clips: Sequence[Clip], folder: str | Path, *, model: str | Path, **options: Any
) -> EmbeddingSummary:
    """Call `embed_to_folder` by its former name and order of arguments."""
    return embed_to_folder(model, clips, folder, **options)
