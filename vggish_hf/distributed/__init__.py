"""Embed clips into a folder on a Ray cluster."""

from vggish_hf.distributed.ray_data import ClusterError as ClusterError
from vggish_hf.distributed.ray_data import embed_dataset as embed_dataset
