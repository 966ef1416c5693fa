"""Top-1 and top-5 error of a classifier or an ensemble, with 1, 10 or 144 crops a picture (GoogLeNet, Table 3)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Longs
from detector.ensemble import check_members
from detector.model import Model, find_model
from detector.options import DetectOptions
from detector.runtimes.base import CPU_BATCH, DET, IMAGENET, Classifier
from detector.runtimes.load import load_classifier
from detector.runtimes.onnx import OnnxClassifier
from detector.whole_crops import CROPS, protocol_crops
from eval.labelled import LabelledPictures, Labels, read_labelled
from proposals.console import FAILED, Console, Parser, UsageError, run, write_out
from proposals.images import ImageError, read_image
from proposals.options import add_options, options_of

PROGRAM = "python -m eval.classification"
TOPS = (1, 5)
CHUNK = 144  # crops that are held at a time, of each size: one picture of the largest protocol
RUNTIME = ("crop_size", "device", "runtime", "precision", "batch_size")
SHOWN_FAILURES = 5
Member = Classifier | OnnxClassifier

DESCRIPTION = """\
Top-1 and top-5 error of a model, or of an ensemble, whose softmax scores are
averaged over the crops of a picture and over the models, as in Table 3 of the
GoogLeNet paper. The intervals are Wilson's, of 95 %."""

EPILOG = """\
DATA is one of
  a folder with a folder for each class, called by WordNet id, name or index
  a flat folder of pictures with the WordNet id in every name
  a list: 'path label' a line, a tab between them where the label has blanks
  a COCO-style JSON file, one class a picture ('wnid', or its annotations')
A label is an ImageNet index 0..999, a WordNet id or a name.

examples:
  python -m eval.classification val --crops 10
  python -m eval.classification val.txt --images val --model a.safetensors --model b.safetensors

Of classes with equal scores the earlier one comes first.
exit status: 0 all done, 1 a picture could not be read or the run failed,
2 wrong usage."""


def ranks(scores: Doubles, labels: Longs) -> Longs:
    """Return the place of each picture's class among its scores, 0 the best: [N, C], [N] -> [N].

    Of equal scores the lower column comes first. Raises: ValueError for a score that is not a finite number.
    """
    if not np.isfinite(scores).all():
        raise ValueError("the model gave a score that is not a finite number; its weights are damaged")
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & earlier)
    return np.asarray(better.sum(axis=1), dtype=np.int64)


def wilson(errors: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `errors` among `count` >= 1 (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(errors, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_scores(members: Sequence[Member], cut: dict[int, list[npt.NDArray[np.uint8]]]) -> Doubles:
    """Return the scores averaged over the crops of each picture, and over the networks: float64 [N, columns].

    cut: size -> the crops of each of N pictures, uint8 [crops, size, size, 3], all of one number of crops.
    """
    total: Doubles = np.zeros(())
    for member in members:
        pictures = cut[member.model.size]
        scores = member(np.concatenate(pictures)).astype(np.float64)
        total = total + member.model.weight * scores.reshape(len(pictures), -1, scores.shape[1]).mean(axis=1)
    return total / sum(member.model.weight for member in members)


def classify(
    pictures: LabelledPictures,
    members: Sequence[Member],
    crops: int,
    failed: Callable[[Path, str], None],
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[Longs, Longs]:
    """Return the indices of the pictures that can be read, and the places of their classes, 0 the best: [N], [N].

    crops: 1, 10 or 144 a picture; `failed` takes each picture that cannot be read and why, `advance` counts pictures.
    The crops of few pictures are held at a time. Raises: ValueError for scores that do not fit the labels' classes.
    """
    read: list[int] = []
    places = [np.zeros(0, np.int64)]
    classes = len(pictures.class_keys)
    for rows, cut in _cut(pictures, {member.model.size for member in members}, crops, failed, advance):
        scores = mean_scores(members, cut)
        if scores.shape[1] == classes + 1:
            scores = scores[:, 1:]  # without background
        if scores.shape[1] != classes:
            raise ValueError(f"the model gives {scores.shape[1]} scores, the labels are of {classes} classes")
        read += rows
        places.append(ranks(scores, pictures.labels[rows]))
    return np.array(read, np.int64), np.concatenate(places)


def _cut(
    pictures: LabelledPictures,
    sizes: set[int],
    crops: int,
    failed: Callable[[Path, str], None],
    advance: Callable[[int], None],
) -> Iterator[tuple[list[int], dict[int, list[npt.NDArray[np.uint8]]]]]:
    """Yield the indices of some pictures at a time, and their crops by size."""
    rows: list[int] = []
    cut: dict[int, list[npt.NDArray[np.uint8]]] = {size: [] for size in sizes}
    for index, path in enumerate(pictures.paths):
        try:
            image = read_image(path)
            parts = {size: protocol_crops(image, size, crops) for size in sizes}
        except ImageError as error:
            failed(path, error.reason)
        except ValueError as error:
            failed(path, str(error))
        else:
            rows.append(index)
            for size, part in parts.items():
                cut[size].append(part)
        if len(rows) * crops >= CHUNK or (rows and index == len(pictures.paths) - 1):
            yield rows, cut
            rows, cut = [], {size: [] for size in sizes}
        advance(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = make_parser().parse_args(argv)
    return run(PROGRAM, lambda: _evaluate(args))


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("data", metavar="DATA", type=Path, help="labelled pictures: folder, list or JSON file")
    parser.add_argument("--images", metavar="DIR", type=Path, help="folder of a list's or JSON file's pictures")
    parser.add_argument(
        "--model",
        metavar="NAME",
        action="append",
        help="a model, a weights file, or an .onnx file of ImageNet's classes; several: an ensemble, scores averaged "
        "(default: inception_v3)",
    )
    parser.add_argument("--crops", type=int, choices=CROPS, default=1, help="crops of a picture (default: 1)")
    parser.add_argument(
        "--classes",
        choices=(IMAGENET, DET),
        default=IMAGENET,
        help="score in ImageNet's 1,000 classes or in the 200 of detection, where each is the sum of those below it "
        "and pictures of none are left out (default: imagenet)",
    )
    parser.add_argument(
        "--sharpness",
        type=float,
        default=0.0,
        metavar="X",
        help="softmax of X times the logits over their standard deviation; 0, the default: plain softmax",
    )
    add_options(parser, DetectOptions, RUNTIME)
    parser.add_argument("--per-class", action="store_true", help="the errors of each class too, worst first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on standard error but what failed")
    return parser


def _evaluate(args: argparse.Namespace) -> int:
    console = Console(PROGRAM, args.quiet)
    if not 0 <= args.sharpness < inf:
        raise UsageError(f"--sharpness must not be below 0, got {args.sharpness}")
    pictures = read_labelled(args.data, Labels(args.classes), args.images)
    for why, count in pictures.left_out.items():
        console.notice(f"{count:,} picture{'s' if count != 1 else ''} left out: {why}")
    members = _load(args)
    for member in members:
        console.note(member.describe())
    unread: list[tuple[Path, str]] = []

    def failed(path: Path, reason: str) -> None:
        unread.append((path, reason))
        if len(unread) <= SHOWN_FAILURES:
            console.notice(f"{path}: {reason}")

    with console.progress("classify", len(pictures.paths)) as advance:
        read, places = classify(pictures, members, args.crops, failed, advance)
    if len(unread) > SHOWN_FAILURES:
        console.notice(f"and {len(unread) - SHOWN_FAILURES:,} more pictures that cannot be read")
    if not len(read):
        raise ValueError(f"{args.data}: none of its {len(unread):,} pictures can be read; is --images right?")
    result = summary(pictures, read, places, args.per_class)
    result["crops"], result["models"] = args.crops, [member.describe() for member in members]
    result["unreadable"] = [{"path": str(path), "reason": reason} for path, reason in unread]
    write_out(json.dumps(result, indent=2) + "\n" if args.json else _table(result))
    return FAILED if unread else 0


def _load(args: argparse.Namespace) -> list[Member]:
    """Return the members of the ensemble, loaded."""
    o = options_of(argparse.Namespace(**{name: getattr(args, name) for name in RUNTIME}), DetectOptions)
    members: list[Member] = []
    models: list[Model] = []
    for name in args.model or ["inception_v3"]:
        try:
            if name.casefold().endswith(".onnx"):
                members.append(OnnxClassifier(Path(name), o.crop_size, o.batch_size or CPU_BATCH, args.classes))
                continue
            model = find_model(name)
        except OSError as error:
            raise UsageError(f"--model {error}") from None
        models.append(replace(model, size=o.crop_size or model.size, sharpness=args.sharpness))
        members.append(load_classifier(models[-1], o.runtime, o.device, o.precision, o.batch_size, args.classes))
    check_members(models)
    return members


def summary(pictures: LabelledPictures, read: Longs, places: Longs, per_class: bool = False) -> dict[str, Any]:
    """Return the figures as JSON has them, shares 0..1: of all pictures read, and of each class that has any.

    read, places: of `classify`, one picture at least.
    """
    result: dict[str, Any] = {"pictures": len(read), "classes": len(pictures.class_keys)}
    for top in TOPS:
        wrong = int((places >= top).sum())
        result[f"top{top}_error"], result[f"top{top}_interval"] = wrong / len(read), wilson(wrong, len(read))
    result["left_out"] = dict(pictures.left_out)
    if per_class:
        labels = pictures.labels[read]
        rows = []
        for label in np.unique(labels).tolist():
            own = places[labels == label]
            row = {"class": pictures.class_keys[label], "name": pictures.class_names[label], "pictures": len(own)}
            rows.append(row | {f"top{top}_error": float((own >= top).mean()) for top in TOPS})
        keys = [f"top{top}_error" for top in TOPS]
        result["per_class"] = sorted(rows, key=lambda row: [-row[key] for key in keys])
    return result


def _table(result: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    crops = f"{result['crops']} crop{'s' if result['crops'] != 1 else ''}"
    lines = [f"{result['pictures']:,} pictures, {result['classes']:,} classes, {crops} a picture", ""]
    lines.append(f"{'':6}{'error':>9}   95 % interval")
    for top in TOPS:
        low, high = result[f"top{top}_interval"]
        lines.append(f"top-{top:<2}{result[f'top{top}_error']:>9.2%}   {low:.2%} .. {high:.2%}")
    if "per_class" in result:
        lines += ["", "   top-1    top-5  pictures  class"]
        for row in result["per_class"]:
            figures = f"{row['top1_error']:>8.1%} {row['top5_error']:>8.1%} {row['pictures']:>9,}"
            lines.append(f"{figures}  {row['class']} {row['name']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
