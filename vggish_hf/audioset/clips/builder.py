"""AudioSet's clips, from a segments CSV and audio files, as a `datasets` builder.

The builder has its own module because `datasets` replaces `open`, `os.path` and `Path` in a
builder's module to stream from the Hub.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from vggish_hf.audioset._datasets import datasets
from vggish_hf.audioset.clips.cutting import read_clips
from vggish_hf.audioset.clips.index import (
    AudioInputs,
    LeftOut,
    index_clips,
    read_left_out,
    write_left_out,
)
from vggish_hf.audioset.clips.tables import clip_features, clip_tables
from vggish_hf.audioset.segments import read_segments, split_of


class AudioSetClips(datasets.ArrowBasedBuilder):  # type: ignore[misc] # untyped
    """Builder of AudioSet's clips with their audio.

    It has the methods of all builders: `download_and_prepare(num_proc=...)`, `as_dataset()`,
    `as_streaming_dataset()`. The columns are those of `Segment`, `labels` as `ClassLabel`, and
    `audio`, a `datasets.Audio`, which torchcodec decodes on access; `AudioSetClipsDataset` does not
    need torchcodec.

    Preparation decodes every clip once, and cuts it out if its file is the whole video (see
    `vggish_hf.audioset.clips.cutting`). Files with one clip stay in place.

    Args:
        segments: The CSV, see `read_segments`.
        audio: Audio files, folders of them, archives, Parquet files with `video_id` and `audio`,
            and other inputs of `find_clips`; see `vggish_hf.audioset.clips.names` for their names.
        split: Name of the split; the default is from the CSV's name.
        cache_dir: Folder for prepared data, instead of the Hub's cache.

    Attributes:
        left_out: The failed clips: those without a file; after `download_and_prepare` also those
            that cannot be decoded, with a warning.
        unmatched: The number of audio files whose names match no clip, and the first ten.

    Raises:
        FileNotFoundError: The CSV, a file or a folder does not exist.
        ValueError: The CSV has another layout, or no file matches its clips.

    Example:
        >>> builder = AudioSetClips("eval_segments.csv", "audio/")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="eval").features["audio"]  # doctest: +SKIP
        Audio(sampling_rate=None, decode=True, num_channels=None, stream_index=None)
    """

    VERSION = "1.0.0"  # of the columns; a new one makes the cached data anew
    DEFAULT_WRITER_BATCH_SIZE = 64

    def __init__(
        self,
        segments: str | os.PathLike[str],
        audio: AudioInputs,
        *,
        split: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._split = split or split_of(segments)
        self._index = index_clips(read_segments(segments), audio)
        self.left_out = list(self._index.left_out)
        self.unmatched = self._index.unmatched
        self._notes: str | None = None  # folder for the processes' lists of failed clips
        super().__init__(
            cache_dir=cache_dir,
            dataset_name="audioset_clips",
            # The name of the cache's folder, so that changed data are prepared anew.
            hash=self._index.digest(),
            data_dir=str(audio) if isinstance(audio, (str, os.PathLike)) else None,
            config_name=self._split,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=clip_features())

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        """List the split's sources; `datasets` divides the list among processes."""
        sources = list(range(len(self._index.sources)))
        return [datasets.SplitGenerator(self._split, gen_kwargs={"sources": sources})]

    def _generate_tables(self, sources: list[int]) -> Iterator[tuple[int, pa.Table]]:
        left_out: list[LeftOut] = []
        clips = read_clips(self._index.read(sources), in_memory=False)
        yield from enumerate(clip_tables(clips, left_out))
        if self._notes is None:
            self._warn(left_out)
        else:
            write_left_out(f"{self._notes}/{sources[0]}.csv", left_out)

    def download_and_prepare(self, *args: Any, **options: Any) -> None:
        """Prepare the data, as all builders do; see `left_out` for failed clips."""
        with tempfile.TemporaryDirectory() as notes:
            self._notes = notes
            try:
                super().download_and_prepare(*args, **options)
            finally:
                self._notes = None
            unusable = [
                entry
                for name in sorted(os.listdir(notes))
                for entry in read_left_out(f"{notes}/{name}")
            ]
        # Next to the cached data, for later users of the cache.
        path = f"{self._output_dir}/left_out.csv"
        if os.path.exists(path):
            self.left_out = read_left_out(path)
        else:
            self.left_out = [*self._index.left_out, *unusable]
            write_left_out(path, self.left_out)
        self._warn(self.left_out)

    def _warn(self, left_out: list[LeftOut]) -> None:
        if left_out:
            warnings.warn(
                f"{self._split}: {len(left_out)} clips failed, `left_out` of the builder "
                f"lists them; the first: {': '.join(filter(None, left_out[0]))}"
                + (f"; {self.unmatched}" if self.unmatched.count else ""),
                stacklevel=3,
            )
