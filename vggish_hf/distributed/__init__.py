"""Embed clips into a folder on a Ray cluster."""

from vggish_hf.distributed.cluster import ClusterError as ClusterError
from vggish_hf.distributed.ray_data import embed_to_folder as embed_to_folder
