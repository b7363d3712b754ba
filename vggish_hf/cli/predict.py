"""`vggish-hf predict`: audio in, the scores of a trained classifier out."""

import argparse
import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits, IsolatedDecoders
from vggish_hf.cli._options import in_flags, printable, say
from vggish_hf.cli._scores import WriteScores, check_scores_file, open_scores
from vggish_hf.inputs import Clip, find_clips, make_decoder
from vggish_hf.modeling.loading import check_device
from vggish_hf.pipeline import VGGishPipeline

if TYPE_CHECKING:
    from vggish_hf.lightning import VGGishClassifier

_EPILOG = """\
INPUT is what `vggish-hf embed` takes: files, folders, globs, lists, tars, Parquet files with audio
and URLs. Files are decoded in processes of their own, so that none of them can break the job.

Without -o, one line per clip: its id and its most likely classes. OUT, .csv or .parquet, has one
row per clip: id, and a column for each class with its probability. The command replaces an existing
file at its end. The file's metadata (.parquet) or OUT.json (.csv) records how it was made.

examples:
  vggish-hf predict street/ --classifier mine/
  vggish-hf predict street/ --classifier mine/ -o street.csv
  vggish-hf predict street/ --classifier tagger/ --model google

exit code: 0 all inputs done, 1 some failed (the others are done), 2 a usage error
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "predict",
        help="classify audio",
        description="Score audio by a classifier that `vggish-hf train` has saved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="as for `vggish-hf embed`")
    parser.add_argument("--classifier", required=True, metavar="ID", help="local folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a classifier on the Hub")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="a table, .csv or .parquet"
    )
    parser.add_argument(
        "--model",
        metavar="ID",
        help="the network that embeds the audio, for a classifier that learnt from embeddings",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--top", type=int, default=3, help="classes in a line (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="files decoded at once (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=DEFAULT_LIMITS.max_seconds,
        metavar="SECONDS",
        help="longer clips fail (default: %(default)g)",
    )
    parser.add_argument(
        "--follow-symlinks", action="store_true", help="follow links out of folders, too"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from vggish_hf.lightning import VGGishClassifier
    from vggish_hf.lightning.classified import TooShortError

    output: Path | None = args.output
    if args.top < 1:
        raise ValueError(f"Expected --top of at least 1, got {args.top}")
    if output is not None:
        check_scores_file(output)
    check_device(args.device)
    limits = AudioLimits(max_seconds=args.max_seconds)
    clips = find_clips(args.inputs, follow_symlinks=args.follow_symlinks, on_skip=_note_skipped)
    classifier = VGGishClassifier.from_pretrained(
        args.classifier, device=args.device, revision=args.revision
    )
    pipeline = _load_pipeline(args, classifier)
    failed: dict[str, str] = {}
    too_short: list[str] = []

    def note_failure(_index: int, clip: Clip, error: Exception) -> None:
        if isinstance(error, TooShortError):
            too_short.append(clip.id)
        else:
            failed[clip.id] = str(error)

    decoders = IsolatedDecoders()
    with _plain_warnings():
        found = classifier.classify(
            clips,
            pipeline=pipeline,
            num_workers=args.workers,
            on_error=note_failure,
            decode=make_decoder(decoders, limits),
        )
    provenance = {
        **(classifier.provenance() if pipeline is None else pipeline.provenance("none")),
        "classifier": args.classifier,
        "classifier_sha256": _sha256(classifier.weights_path),
        "task": classifier.task,
        "postprocess": classifier.postprocess,
        "options": {"limits": asdict(limits)},
    }
    scored = 0
    with (
        closing(found),
        decoders,  # end before the threads that wait for them
        suppress(_NothingClassifiedError),
        # Lines and a bar would overwrite each other.
        tqdm(total=len(clips), unit="clip", disable=None if output else True) as progress,
        _open_output(output, classifier, provenance, args.top) as write,
    ):
        for clip in found:
            write(clips[clip.index].id, clip)
            scored += 1
            progress.update(clip.index + 1 - progress.n)
        progress.update(len(clips) - progress.n)
        if not scored:
            raise _NothingClassifiedError
    for clip_id, reason in failed.items():
        say(f"failed: {printable(clip_id)}: {printable(in_flags(reason))}", sys.stderr)
    for clip_id in too_short:
        say(f"shorter than an example: {printable(clip_id)}", sys.stderr)
    if output is not None:
        if scored:
            counts = [f"{scored} clip{'' if scored == 1 else 's'} in {output}"]
            counts += [f"{len(failed)} failed"] if failed else []
            counts += [f"{len(too_short)} shorter than an example"] if too_short else []
            say("; ".join(counts))
        else:
            say(f"no clip was classified, {output} is not written", sys.stderr)
    return 1 if failed else 0


class _NothingClassifiedError(Exception):
    """No clip has scores: an existing output stays unchanged."""


def _sha256(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note_skipped(path: str, reason: str) -> None:
    say(f"skipped: {printable(path)}: {reason}", sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print each warning as one line."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    for warning in heard:
        say(f"vggish-hf: warning: {printable(in_flags(warning.message))}", sys.stderr)


def _load_pipeline(
    args: argparse.Namespace, classifier: "VGGishClassifier"
) -> VGGishPipeline | None:
    if classifier.backbone is not None:
        if args.model is not None:
            raise ValueError(f"Expected no --model: {args.classifier!r} has a network of its own")
        return None
    if args.model is None:
        raise ValueError(
            f"Expected --model, the network whose embeddings {args.classifier!r} has learnt from"
        )
    pipeline = VGGishPipeline.from_pretrained(args.model, device=args.device)
    size, expected = pipeline.model.config.embedding_size, classifier.hparams.embedding_size
    if size != expected:
        raise ValueError(
            f"Expected a model of {expected}-d embeddings, as {args.classifier!r} has learnt from, "
            f"{args.model!r} has {size}-d ones"
        )
    return pipeline


def _open_output(
    path: Path | None, classifier: "VGGishClassifier", provenance: dict[str, Any], top: int
) -> AbstractContextManager[WriteScores]:
    if path is not None:
        return open_scores(path, classifier.classes, provenance)

    def write(clip_id: str, clip: Any) -> None:
        best = ", ".join(f"{printable(name)} {value:.2f}" for name, value in clip.top(top))
        say(f"{printable(clip_id)}: {best}")

    return nullcontext(write)
