"""Run an embedding job in a process of its own: `embedding_run.py JOB`, a JSON object.

    engine         "local" or "ray"
    clips          pairs of an id and a path
    folder, model  where to, and by what
    options        of `embed_to_folder`
    block_examples instead of `BLOCK_EXAMPLES`

Prints the summary as JSON.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

import torch

from vggish_hf import VGGishPipeline
from vggish_hf.distributed import embed_to_folder as embed_on_cluster
from vggish_hf.inputs import Clip
from vggish_hf.jobs import blocks
from vggish_hf.jobs.job import EmbeddingSummary
from vggish_hf.jobs.to_folder import embed_to_folder


def main(job: dict[str, Any]) -> EmbeddingSummary:
    clips = [Clip(*pair) for pair in job["clips"]]
    options = job["options"]
    size = job.get("block_examples", blocks.BLOCK_EXAMPLES)

    def set_up() -> None:
        blocks.BLOCK_EXAMPLES = size

    if job["engine"] == "local":
        set_up()
        pipeline = VGGishPipeline.from_pretrained(job["model"])
        return embed_to_folder(pipeline, clips, job["folder"], **options)
    if "block_examples" in job:
        import ray

        address = options.pop("address")
        runtime = {"worker_process_setup_hook": set_up}
        ray.init(address, log_to_driver=False, runtime_env=runtime)
    return embed_on_cluster(job["model"], clips, job["folder"], **options)


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in Ray's processes
    sys.stdout.write(json.dumps(asdict(main(json.loads(sys.argv[1])))))
