"""`vggish-hf fad`: two sets of clips in, their Frechet Audio Distance out."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from vggish_hf._runtime.files import unfinished_file
from vggish_hf.cli._options import add_model_options, load_pipeline
from vggish_hf.inputs import find_inputs
from vggish_hf.metrics import EmbeddingSet, FadResult, PresetName, frechet_audio_distance

_EPILOG = """\
REAL and FAKE are each an audio folder (searched recursively), a glob, a .txt list with a path a
line, a Parquet file of embeddings (`vggish-hf embed`, or an AudioSet export), or a .npz file of
statistics. The model is loaded where there is audio. Sets that were embedded differently are not
compared, unless forced. Files are replaced where they exist, once all is done.

examples:
  vggish-hf fad real/ generated/
  vggish-hf fad real/ generated/ --preset google --save-stats real.npz
  vggish-hf fad real.npz generated/ --preset google --per-file --plot files.png
  vggish-hf fad real.parquet generated.parquet --inf --json - | jq .infinity.score

exit code: 0 all clips counted, 1 some failed (the others are scored), 2 no score
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "fad",
        help="score generated audio",
        description="Compute the Frechet Audio Distance of a set of clips from a real one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("real", metavar="REAL", help="the set to compare with")
    parser.add_argument("fake", metavar="FAKE", help="the set to score")
    add_model_options(parser)
    parser.add_argument(
        "--preset",
        choices=get_args(PresetName),
        default="default",
        help="whose preprocessing, see docs/fad.md (default: %(default)s)",
    )
    parser.add_argument("--per-file", action="store_true", help="score each clip of FAKE, too")
    parser.add_argument(
        "--inf", action="store_true", help="extrapolate to infinitely many clips, too"
    )
    parser.add_argument(
        "--save-stats", type=Path, metavar="FILE", help="write REAL's statistics, .npz"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all of the result; - for stdout, without the table"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PICTURE", help="draw the scores of --per-file"
    )
    parser.add_argument(
        "--force", action="store_true", help="compare sets that were embedded differently"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="examples at once (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="files decoded at once (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    _check_outputs(args)
    real, fake = find_inputs([args.real]), find_inputs([args.fake])
    endings = {os.path.splitext(path)[1].lower() for path in (*real, *fake)}
    result = frechet_audio_distance(
        real,
        fake,
        model=load_pipeline(args) if endings - {".npz", ".parquet"} else None,
        preset=args.preset,
        per_clip=args.per_file or args.plot is not None,
        infinity=args.inf,
        force=args.force,
        batch_size=args.batch_size,
        num_workers=args.workers,
        progress=True,
    )
    document = json.dumps(result.to_dict(), indent=2)
    if args.json == "-":
        print(document)
    else:
        for line in _table(result, per_file=args.per_file):
            print(line)
    failures = (*result.real.failures, *result.fake.failures)
    for clip, reason in failures:
        print(f"failed: {clip}: {reason}", file=sys.stderr)
    if args.save_stats is not None:
        result.real.statistics.save(args.save_stats)
    if args.json not in (None, "-"):
        with unfinished_file(Path(args.json)) as unfinished:
            unfinished.write_text(document + "\n", encoding="utf-8")
    if args.plot is not None:
        _plot(args.plot, result)
    return 1 if failures else 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Find out before the work whether its results can be written."""
    if args.save_stats is not None and args.save_stats.suffix != ".npz":
        raise ValueError(f"Expected --save-stats to end in .npz, got {str(args.save_stats)!r}")
    json_path = None if args.json in (None, "-") else Path(args.json)
    for path in filter(None, (args.save_stats, json_path, args.plot)):
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(
                f"Expected the name of a file in an existing folder, got {str(path)!r}"
            )
    if args.plot is not None:
        from vggish_hf.plotting import check_picture

        check_picture(args.plot)


def _table(result: FadResult, *, per_file: bool) -> Iterator[str]:
    if per_file:
        yield "     score  examples  file"
        for clip, examples, score in result.per_clip or ():
            yield f"{'' if score is None else f'{score:.4g}':>10} {examples:>9}  {clip}"
        yield ""
    yield "set      clips  examples  failed"
    yield _row("real", result.real)
    yield _row("fake", result.fake)
    provenance = result.provenance
    preset = provenance.get("preset") or {}
    made = {
        "model": provenance.get("model"),
        "weights": (provenance.get("weights_sha256") or "")[:12],
        "preset": preset.get("name"),
    }
    origin = ", ".join(f"{key} {value}" for key, value in made.items() if value)
    yield f"FAD {result.score:.4g}" + (f" ({origin})" if origin else "")
    if result.infinity is not None:
        fit = result.infinity
        yield f"infinity {fit.score:.4g} (R2 {fit.r_squared:.4f}, drawn: {fit.drawn})"
    for note in result.notes:
        yield f"note: {note}"


def _row(name: str, of: EmbeddingSet) -> str:
    clips = "" if of.clips is None else of.clips
    return f"{name} {clips:>9} {of.statistics.count:>9} {len(of.failures):>7}"


def _plot(path: Path, result: FadResult) -> None:
    from vggish_hf.plotting import draw_scores

    scores = [(name, score) for name, _, score in result.per_clip or () if score is not None]
    draw_scores(path, scores, f"distance of each clip; of all of them {result.score:.4g}")
