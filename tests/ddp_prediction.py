"""Predicts in two processes, with `VGGishEmbeddingWriter`; the tests start it, and kill it.

ddp_prediction.py FOLDER NOTES stall|go files MODEL INPUT   a folder of audio
ddp_prediction.py FOLDER NOTES stall|go own COUNT           one's own module and padded sampler
"""

import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vggish_hf.lightning import AudioFilesDataModule, VGGishEmbedder, VGGishEmbeddingWriter


class Notes(pl.Callback):
    """Notes whose rows were computed; may stop in each process behind its first part."""

    def __init__(self, folder, notes, stall):
        self.folder, self.notes, self.stall = folder, notes, stall

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rank = trainer.global_rank
        with self.notes.joinpath(f"computed-{rank}").open("a") as file:
            ids = [*outputs["id"], *dict(outputs.get("failed", ()))]
            file.writelines(f"{clip}\n" for clip in ids)
        if self.stall and list(self.folder.glob(f"part-{rank:05}-*.parquet")):
            self.notes.joinpath(f"stalled-{rank}").touch()
            time.sleep(600)


class Numbers(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"id": f"clip {index}", "value": float(index)}


class OwnData(pl.LightningDataModule):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def predict_dataloader(self):
        numbers = Numbers(self.count)
        return DataLoader(numbers, batch_size=2, sampler=DistributedSampler(numbers, shuffle=False))


class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(8))

    def predict_step(self, batch):
        return {"id": batch["id"], "embedding": batch["value"].float()[:, None] * self.weight}


def main(folder, notes, mode, kind, *arguments):
    if kind == "files":
        model, inputs = arguments
        module = VGGishEmbedder(model)
        data = AudioFilesDataModule([inputs], batch_size=4, num_workers=1)
    else:
        module, data = Own(), OwnData(int(arguments[0]))
    writer = VGGishEmbeddingWriter(folder, clips_per_part=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[writer, Notes(Path(folder), Path(notes), mode == "stall")],
    )
    trainer.predict(module, data, return_predictions=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
    if torch.distributed.is_initialized():  # else torch may abort the process when it exits
        torch.distributed.destroy_process_group()
