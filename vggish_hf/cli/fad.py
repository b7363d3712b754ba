"""`vggish-hf fad`: two sets of clips in, their Frechet Audio Distance out."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from vggish_hf._checks import check_at_least_one
from vggish_hf._runtime.files import unfinished_file
from vggish_hf.audio import DEFAULT_LIMITS, AudioLimits
from vggish_hf.cli._options import (
    add_model_options,
    in_flags,
    load_pipeline,
    printable,
    say,
)
from vggish_hf.metrics import FadResult, PresetName, find_set, frechet_audio_distance

_EPILOG = """\
REAL and FAKE are each whatever `vggish-hf embed` takes: an audio file, a folder (searched
recursively), a glob, a .txt list with one path per line, an archive, a Parquet file with a column
of audio, or a URL. Or they are embeddings: a folder or a file, .parquet or .npz, that `vggish-hf
embed` has written, or an AudioSet export. Or an .npz file of statistics. Content tells which. The
model is loaded where there is audio. Both sets are checked before either is embedded; sets that
were embedded differently are not compared, unless forced. Files are decoded in processes of their
own. The command replaces existing output files once the whole score is known.

examples:
  vggish-hf fad real/ generated/
  vggish-hf fad real/ generated/ --preset google --save-stats real.npz
  vggish-hf fad real.npz generated/ --preset google --per-file --plot files.png
  vggish-hf fad embeddings/ generated.parquet --inf --json - | jq .infinity.score

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
    _check_outputs(args)
    check_at_least_one(batch_size=args.batch_size, num_workers=args.workers)
    limits = AudioLimits(max_seconds=args.max_seconds)
    real, fake = (
        find_set(name, follow_symlinks=args.follow_symlinks, on_skip=_note_skipped)
        for name in (args.real, args.fake)
    )
    result = frechet_audio_distance(
        real,
        fake,
        model=load_pipeline(args) if "audio" in (real.kind, fake.kind) else None,
        preset=args.preset,
        per_clip=args.per_file or args.plot is not None,
        infinity=args.inf,
        force=args.force,
        batch_size=args.batch_size,
        num_workers=args.workers,
        limits=limits,
        isolated=True,
        progress=True,
    )
    document = json.dumps(result.to_dict(), indent=2)
    if args.json == "-":
        say(document)
    else:
        for line in _table(result, per_file=args.per_file):
            say(line)
    failures = (*result.real.failures, *result.fake.failures)
    for clip, reason in failures:
        say(f"failed: {printable(clip)}: {printable(in_flags(reason))}", sys.stderr)
    if args.save_stats is not None:
        result.real.statistics.save(args.save_stats)
    if args.json not in (None, "-"):
        with unfinished_file(Path(args.json)) as unfinished:
            unfinished.write_text(document + "\n", encoding="utf-8")
    if args.plot is not None:
        _plot(args.plot, result)
    return 1 if failures else 0


def _note_skipped(path: str, reason: str) -> None:
    say(f"skipped: {printable(path)}: {reason}", sys.stderr)


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before the work that its results can be written."""
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

        try:
            check_picture(args.plot)
        except ModuleNotFoundError:
            raise ImportError(
                "--plot draws with matplotlib: pip install 'vggish-hf[plot]'"
            ) from None


def _table(result: FadResult, *, per_file: bool) -> Iterator[str]:
    if per_file:
        clips = result.per_clip or ()
        scores = _figures([clip.score for clip in clips])
        rows = [
            (score, str(clip.examples), printable(clip.clip))
            for score, clip in zip(scores, clips, strict=True)
        ]
        yield from _columns([("score", "examples", "file"), *rows], ">><")
        yield ""
    sets = [
        (
            name,
            "" if of.clips is None else str(of.clips),
            str(of.statistics.count),
            str(len(of.failures)),
        )
        for name, of in (("real", result.real), ("fake", result.fake))
    ]
    yield from _columns([("set", "clips", "examples", "failed"), *sets], "<>>>")
    yield ""
    fit = result.infinity
    fad, *infinity = _figures([result.score] if fit is None else [result.score, fit.score])
    lines = [("FAD", fad, _origin(result))]
    if fit is not None:
        fitted = f"(R2 {fit.r_squared:.4f}, drawn: {fit.drawn})"
        lines.append(("infinity", infinity[0], fitted))
    yield from _columns(lines, "<<<")
    for note in result.notes:
        yield f"note: {printable(in_flags(note))}"


def _origin(result: FadResult) -> str:
    provenance = result.provenance
    preset = provenance.get("preset") or {}
    made = {
        "model": provenance.get("model"),
        "weights": (provenance.get("weights_sha256") or "")[:12],
        "preset": preset.get("name"),
    }
    origin = ", ".join(f"{key} {value}" for key, value in made.items() if value)
    return printable(f"({origin})" if origin else "")


def _columns(rows: Sequence[Sequence[str]], alignments: str) -> Iterator[str]:
    """Lay out a table, each column as wide as its widest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, alignments, widths, strict=True)
        yield "  ".join(f"{text:{side}{width}}" for text, side, width in cells).rstrip()


def _figures(values: Sequence[float | None]) -> list[str]:
    """Format numbers to four digits, their decimal points in one column."""
    texts = ["" if value is None else f"{value:.4g}" for value in values]
    ends = [len(text.partition(".")[0].partition("e")[0]) for text in texts]
    left = [
        " " * (max(ends, default=0) - end) + text for end, text in zip(ends, texts, strict=True)
    ]
    width = max(map(len, left), default=0)
    return [text.ljust(width) for text in left]


def _plot(path: Path, result: FadResult) -> None:
    from vggish_hf.plotting import draw_scores

    scores = [(name, score) for name, _, score in result.per_clip or () if score is not None]
    draw_scores(path, scores, f"distance of each clip; of all of them {result.score:.4g}")
