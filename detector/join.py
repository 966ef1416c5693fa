"""The command `python -m detector.join`: networks that share their first layers, as one ensemble in one 8-bit file.

The shared layers are computed once for all members, so that six networks cost little more than one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.export import check_target
from detector.model import SOFTMAX, Model, find_model
from detector.networks.inception_v3 import SHARED
from detector.networks.layers import Conv, convolutions, cut_after
from detector.runtimes.base import Crops
from detector.weights import Weights, load_weights, save_weights
from proposals.console import Console, Parser, UsageError, run

PROGRAM = "python -m detector.join"
DESCRIPTION = """\
Join Inception-v3 networks that were fine-tuned behind the same first layers
into one ensemble in one file: layers that training left alone as BASE has
them, all others in 8 bits, a scale a channel, with intervals found on crops of
proposals."""
EPILOG = """\
  python -m detector.join run1 run2 run3 --out ensemble.safetensors --pictures photos
  detect --model ensemble.safetensors photo.jpg

exit status: 0 written, 1 failed, 2 wrong usage"""

CROPS = 512
CLOSE = 2e-3  # largest difference of shared weights, relative: float16 keeps 11 bits
Arrays = dict[str, npt.NDArray[Any]]


def check_shared(members: Sequence[Model]) -> None:
    """Raise ValueError unless the members are Inception-v3 networks of one kind that begin with the same layers."""
    first = members[0]
    weights = load_weights(first)
    shared = list(convolutions(first.layers[: cut_after(first.layers, SHARED)]))
    for member in members:
        if member.network != "inception_v3" or member.members != 1 or member.head != SOFTMAX:
            raise ValueError(f"{member.file}: only single Inception-v3 networks with softmax scores can be joined")
        if member.sharpness and len(members) > 1:
            raise ValueError(f"{member.file}: has sharpness {member.sharpness:g}; members have 0, as training gives")
        for key in ("classes", "class_names", "size", "mean", "scale", "sharpness"):
            if getattr(member, key) != getattr(first, key):
                raise ValueError(f"{member.file}: its {key} is not that of {first.file}")
        own = load_weights(member)
        for conv in shared:
            wanted = weights.kernel(conv.name)
            if not _close(own.kernel(conv.name), wanted):
                raise ValueError(
                    f"{member.file}: its {conv.name} is not that of {first.file}; members are trained with kept = "
                    f"'{SHARED}' and kept_from = the first one, and so share their first layers"
                )


def _close(kernel: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> bool:
    return bool(np.abs(kernel - wanted).max() <= CLOSE * np.abs(wanted).max())


def shared_arrays(base: Model, first: Model) -> Arrays:
    """Return the arrays of the layers that all members have: as they stand in `base`, where training left them so.

    The others are `first`'s, in 8 bits.
    """
    if base.network != "inception_v3":
        raise ValueError(f"{base.file}: the base of Inception-v3 networks is one of them, not {base.network}")
    stored, weights = load_weights(base), load_weights(first)
    arrays: Arrays = {}
    for conv in convolutions(first.layers[: cut_after(first.layers, SHARED)]):
        if _close(weights.kernel(conv.name), stored.kernel(conv.name)):
            arrays |= {key: array for key, array in stored.arrays.items() if key.rpartition(".")[0] == conv.name}
        else:
            arrays |= eight_bits(weights, [conv], "")
    return arrays


def eight_bits(weights: Weights, convs: Iterable[Conv], prefix: str) -> Arrays:
    """Return the arrays of convolutions, named after `prefix`: weights int8 with a scale a channel."""
    arrays: Arrays = {}
    for conv in convs:
        kernel = weights.kernel(conv.name)
        scale = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)) / 127, np.float32(1e-12)).astype(np.float32)
        arrays[f"{prefix}{conv.name}.weight"] = np.round(kernel / scale[:, None, None, None]).astype(np.int8)
        arrays[f"{prefix}{conv.name}.scale"] = scale
        arrays[f"{prefix}{conv.name}.bias"] = weights.bias(conv.name)
    return arrays


def join(
    base: Model,
    members: Sequence[Model],
    out: Path,
    crops: Crops,
    advance: Callable[[int], None] = lambda steps: None,
) -> Model:
    """Write the ensemble of `members` to `out`; return its model.

    crops: uint8 [N, size, size, 3], on which the intervals of outputs are found that `base` has none for.
    Raises: ValueError for networks that do not share their layers; OSError.
    """
    from detector.quantize import calibrate

    check_shared(members)
    prefixes = [f"{number}/" if len(members) > 1 else "" for number in range(len(members))]
    arrays: Arrays = shared_arrays(base, members[0])
    for member, prefix in zip(members, prefixes, strict=True):
        own = convolutions(member.layers[cut_after(member.layers, SHARED) :])
        arrays |= eight_bits(load_weights(member), own, prefix)
    with TemporaryDirectory() as folder:
        floats = {key: array for key, array in arrays.items() if not key.endswith(".range")}
        intervals = calibrate(_save(Path(folder) / "float.safetensors", floats, members), crops, advance)
    kept = {f"{name}.range": interval for name, interval in intervals.items()}
    return _save(out, kept | arrays, members)


def _save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], members: Sequence[Model]) -> Model:
    return save_weights(path, arrays, replace(members[0], members=len(members), has_box_regression=False, cascade=0.0))


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument("members", metavar="MODEL", nargs="+", help="run folders or weights files")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="weights file to write: .safetensors")
    parser.add_argument("--base", metavar="MODEL", default="inception_v3", help="(default: inception_v3)")
    parser.add_argument("--pictures", metavar="PATH", nargs="+", default=[], help="(default: the bundled samples)")
    parser.add_argument("--crops", metavar="N", type=int, default=CROPS, help=f"to calibrate on (default: {CROPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of proposals (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_args(argv)
    if args.out.suffix != ".safetensors" or args.crops < 1 or args.seed < 0:
        raise UsageError("--out must end in .safetensors, --crops be at least 1, --seed not negative")
    check_target(args.out)
    console = Console(PROGRAM, args.quiet)
    members = [find_model(name) for name in args.members]
    base = replace(find_model(args.base), size=members[0].size)
    check_shared(members)
    from detector.agreement import image_paths, proposal_crops

    paths = image_paths(args.pictures)
    with console.progress("proposals", min(len(paths), args.crops)) as advance:
        (crops,) = proposal_crops(paths, base, (args.crops,), args.seed, advance, console.notice)
    with console.progress("calibrate", len(crops)) as advance:
        join(base, members, args.out, crops, advance)
    console.note(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB), {len(members)} members")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status."""
    return run(PROGRAM, lambda: _main(argv))


if __name__ == "__main__":
    sys.exit(main())
