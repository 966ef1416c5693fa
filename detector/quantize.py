"""The command `python -m detector.quantize`: the intervals of an 8-bit run, found on crops of real proposals.

The float network runs once over the crops; of every convolution's output a histogram is kept. The upper end of an
interval is the one with the least squared error of rounding and clipping together (as Sung et al. 2015, arXiv
1511.06488, section 3). ReLU outputs begin at 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detector.agreement import Agreement, agreement
from detector.export import check_target
from detector.model import Model, file_digest, find_model
from detector.networks.layers import has_lrn
from detector.runtimes.base import Crops
from detector.weights import file_bytes, load_weights
from proposals.console import Console, Parser, UsageError, run
from proposals.files import NewFile

if TYPE_CHECKING:
    import torch

PROGRAM = "python -m detector.quantize"
DESCRIPTION = """\
Make a weights file that runs in 8 bits: the weights of MODEL, and of each
convolution's output the interval that its 256 levels cover, found on crops of
proposals of the pictures. Afterwards the 8-bit run is compared with float32
on other proposals of the same pictures."""
EPILOG = """\
  python -m detector.quantize mine.safetensors --out mine.int8.safetensors \\
      --pictures photos

--pictures takes pictures, folders, patterns, and .txt lists with a path a
line. Without it the 11 bundled samples are taken, which is few: give some
hundred pictures of the kind that the network will see.

exit status: 0 written, 1 failed, 2 wrong usage"""

SUFFIX = ".safetensors"
CROPS, HELD_OUT = 512, 256
BATCH = 8
LEAST_AGREEMENT = 0.9
BINS = 2048
STEPS = 255  # of 256 levels
CANDIDATES = 128  # upper ends tried, evenly spaced
SMALLEST = 1e-6  # upper end of an output that is always zero

Doubles = npt.NDArray[np.float64]


class Histogram:
    """Counts of positive values in BINS bins of [0, top]; `top` doubles when a value lies beyond it."""

    def __init__(self) -> None:
        self.counts: Doubles = np.zeros(BINS)
        self.top = 0.0
        self.largest = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Count the values above zero."""
        import torch

        largest = float(values.max())
        if largest <= 0:
            return
        if not np.isfinite(largest):
            raise ValueError("an output of the network is not a finite number on these crops; train it again")
        self.largest = max(self.largest, largest)
        self.top = self.top or largest
        while self.top < largest:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
        positive = values[values > 0].float()
        self.counts += torch.histc(positive, BINS, 0, self.top).double().numpy()


def best_end(counts: Doubles, top: float, largest: float) -> float:
    """Return the upper end, `largest` at most, that rounds the values of a histogram with the least squared error.

    counts: [BINS] of [0, top]; all in a bin count as its centre.
    """
    if largest <= 0:
        return SMALLEST
    centres = (np.arange(len(counts)) + 0.5) * (top / len(counts))
    ends = largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    step = ends[:, None] / STEPS
    rounded = np.minimum(np.round(centres / step), STEPS) * step  # [CANDIDATES, BINS]
    return float(ends[((rounded - centres) ** 2 @ counts).argmin()])


def calibrate(
    model: Model, crops: Crops, advance: Callable[[int], None] = lambda steps: None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the interval float32 [2] of each convolution with ReLU, by name, found on `crops` [N, size, size, 3].

    `advance` is called with the number of crops done. Raises: ValueError for damaged weights, or outputs that are not
    finite; OSError when the weights cannot be read.
    """
    import torch

    from detector.networks.torch_module import ConvReLU
    from detector.runtimes.torch import load_network

    network = load_network(model).eval().to(memory_format=torch.channels_last)
    histograms: dict[str, Histogram] = {}

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        assert isinstance(module, ConvReLU)
        histograms[module.source].add(output)

    for part in network.modules():
        if isinstance(part, ConvReLU) and part.relu:
            histograms[part.source] = Histogram()
            part.register_forward_hook(count)
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            batch = torch.from_numpy(crops[start : start + BATCH])
            network((batch.permute(0, 3, 1, 2).float() - model.mean) / model.scale)
            advance(len(batch))
    return {
        name: np.array([0, best_end(found.counts, found.top, found.largest)], np.float32)
        for name, found in histograms.items()
    }


def quantized_file(
    model: Model, crops: Crops, notes: dict[str, str], advance: Callable[[int], None] = lambda steps: None
) -> bytes:
    """Return the weights file of `model` with intervals found on `crops`, and `notes` in its metadata.

    The same arguments give the same bytes. Raises: ValueError for a model without a weights file, or damaged weights;
    OSError when they cannot be read.
    """
    if not model.file:
        raise ValueError(f"model '{model.name}' is defined by torch only, which has no 8-bit run; give a weights file")
    if has_lrn(model.layers):
        raise ValueError(f"{model.file}: OpenVINO's 8-bit runs with LRN are not reliable; train it with norm batch")
    weights = load_weights(model)
    intervals = calibrate(model, crops, advance)
    arrays = {name: array for name, array in weights.arrays.items() if not name.endswith(".range")}
    arrays |= {f"{name}.range": interval for name, interval in intervals.items()}
    return file_bytes(arrays, model.to_metadata() | notes)


def compare(quantized: Model, source: Model, crops: Crops) -> Agreement:
    """Return how far the 8-bit run of `quantized` is from the float32 run of `source` on `crops`."""
    from detector.runtimes.load import load_classifier

    reference = load_classifier(source, "openvino", "cpu", "f32", BATCH)(crops)
    return agreement(load_classifier(quantized, "openvino", "cpu", "int8", BATCH)(crops), reference)


def quantize(
    model: Model,
    out: Path,
    crops: Crops,
    held_out: Crops,
    notes: dict[str, str],
    least: float = LEAST_AGREEMENT,
    advance: Callable[[int], None] = lambda steps: None,
) -> Agreement:
    """Write the 8-bit weights file of `model` to `out`; return how it compares with float32 on `held_out`.

    Raises: what `quantized_file` raises; ValueError, and nothing is written, where the top class agrees on less than
    the share `least`; OSError when the file cannot be written.
    """
    content = quantized_file(model, crops, notes, advance)
    with NewFile(out) as temporary:
        temporary.write_bytes(content)
        result = compare(find_model(str(temporary)), model, held_out)
        if result.top < least:
            raise ValueError(f"{out}: not written; the 8-bit run is too far from float32 ({result}); calibrate on more")
    return result


def _positive(text: str) -> int:
    """Parse a number of crops."""
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"must be 1..100000, got '{text}'")
    return int(text)


def _share(text: str) -> float:
    """Parse --least."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, got '{text}'")
    return value


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model of detect --list-models, a run folder or a weights file; NAME@SIZE for crops of that size",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="weights file to write: .safetensors")
    parser.add_argument("--pictures", metavar="PATH", nargs="+", default=[], help="(default: the bundled samples)")
    parser.add_argument(
        "--crops", metavar="N", type=_positive, default=CROPS, help=f"to calibrate on (default: {CROPS})"
    )
    parser.add_argument(
        "--held-out", metavar="N", type=_positive, default=HELD_OUT, help=f"to compare on (default: {HELD_OUT})"
    )
    parser.add_argument(
        "--least",
        metavar="SHARE",
        type=_share,
        default=LEAST_AGREEMENT,
        help=f"of the held-out crops that must keep their top class (default: {LEAST_AGREEMENT})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pictures and proposals (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_args(argv)
    if args.out.suffix != SUFFIX:
        raise UsageError(f"--out {args.out}: must end in {SUFFIX}")
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    check_target(args.out)
    console = Console(PROGRAM, args.quiet)
    model = find_model(args.model)
    if not model.file:
        raise UsageError(f"MODEL {model.name}: defined by torch only, which has no 8-bit run; give a weights file")
    if args.out.exists() and args.out.samefile(model.file):
        raise UsageError(f"--out {args.out}: is the model itself; give another name")
    if model.quantized:
        console.note(f"{model.name} has intervals already; they are replaced")
    from detector.agreement import image_paths, proposal_crops

    paths = image_paths(args.pictures)
    if not args.pictures:
        console.note(f"calibrating on the {len(paths)} bundled samples only, which is few; --pictures takes your own")
    with console.progress("proposals", min(len(paths), max(args.crops, args.held_out))) as advance:
        crops, held_out = proposal_crops(paths, model, (args.crops, args.held_out), args.seed, advance, console.notice)
    notes = {
        "quantized_from": Path(model.file).name,
        "quantized_from_sha256": file_digest(model),
        "calibration_pictures": str(len(paths)),
        "calibration_crops": str(len(crops)),
        "calibration_seed": str(args.seed),
    }
    with console.progress("calibrate", len(crops)) as advance:
        result = quantize(model, args.out, crops, held_out, notes, args.least, advance)
    console.note(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB), calibrated on {len(crops)} crops")
    console.note(f"int8 against f32 on proposals held out: {result}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status."""
    return run(PROGRAM, lambda: _main(argv))


if __name__ == "__main__":
    sys.exit(main())
