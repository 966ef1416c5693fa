"""The command `python -m detector.export`: a network as one ONNX or OpenVINO file that needs nothing of ours to run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.agreement import Agreement, agreement
from detector.model import Model, file_digest, find_model
from detector.runtimes.base import Crops, Scores
from detector.runtimes.load import load_classifier
from detector.weights import load_weights
from proposals.console import Console, Parser, UsageError, run
from proposals.files import NewFile, check_folder

if TYPE_CHECKING:
    import openvino as ov

PROGRAM = "python -m detector.export"
DESCRIPTION = """\
Write a network as an ONNX or an OpenVINO file, with normalisation, softmax and
the sum over each class's ImageNet leaves inside. Input "crops": uint8
[batch, size, size, 3], RGB, as R-CNN's warp cuts them; output "scores":
float32 [batch, 201], background first. Proposals, crops and non-maximum
suppression are not in the file."""
EPILOG = """\
The file is read back, run on crops of the sample pictures and compared with
our own runtime; one that differs by more than the tolerance is not kept.

  python -m detector.export inception_v3 --out inception_v3.onnx
  python -m detector.export inception_v3 --out inception_v3.xml --precision int8
  python -m detector.export inception_v3 --out inception_v3.xml --check

exit status: 0 written and compared, 1 failed, 2 wrong usage"""

CROPS = 48  # to compare on
DYNAMIC = "dynamic"

ONNX, IR = ".onnx", ".xml"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `export`
BATCH = 8


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from our runtime: largest difference of a score, least share of equal top classes."""

    largest: float
    top: float


TOLERANCES = {
    "f32": Tolerance(1e-4, 0.99),
    "bf16": Tolerance(0.05, 0.95),  # weights are rounded to 16 bits before they are rounded to bf16
    "int8": Tolerance(0.2, 0.9),  # one level of 256 in an early layer moves scores; runtimes round ties differently
}


def export(
    model: Model, out: Path, precision: str = "f32", batch: int | None = None, crops: Crops | None = None
) -> Agreement | None:
    """Write `model` to `out` (.onnx, or .xml with a .bin beside it); batch None: any.

    crops: the file is kept only where it agrees with our runtime on them, and how far is returned.
    Raises: ValueError for a combination that does not exist, missing packages, damaged weights, or a file that differs
    by more than `TOLERANCES`; OSError when it cannot be written. An earlier file of that name stays as it is then.
    """
    with _new(out) as temporary:
        _write(model, temporary, precision, batch)
        if crops is None:
            return None
        result = compare(model, temporary, precision, crops)
        check(result, out, precision)
    return result


def _write(model: Model, path: Path, precision: str, batch: int | None) -> None:
    if precision not in TOLERANCES:
        raise ValueError(f"precision must be one of {', '.join(TOLERANCES)}, got '{precision}'")
    if precision == "int8" and not model.quantized:
        raise ValueError(
            f"{model.file or model.name}: holds no 8-bit intervals; make them with python -m detector.quantize"
        )
    try:
        if path.suffix == ONNX:
            _write_onnx(model, path, precision, batch)
        else:
            _write_ir(model, path, precision, batch)
    except RuntimeError as error:  # how OpenVINO and the exporter of torch report what they cannot do
        raise ValueError(f"{model.name} at {model.size} px: {str(error).strip().splitlines()[-1]}") from None


def _write_onnx(model: Model, path: Path, precision: str, batch: int | None) -> None:
    if precision == "bf16":
        raise ValueError(
            "an ONNX file is f32 or int8 (runtimes go to bf16 by an option of theirs); for bf16, give .xml"
        )
    require_packages()
    from detector.networks.onnx_graph import onnx_scores_model
    from detector.runtimes.base import DET, summed_leaves
    from detector.runtimes.torch import load_network

    weights = load_weights(model) if precision == "int8" else None
    proto = onnx_scores_model(model, load_network(model), summed_leaves(DET, model), batch, weights)
    for key, value in notes(model, precision).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(proto.SerializeToString())


def _write_ir(model: Model, path: Path, precision: str, batch: int | None) -> None:
    if not model.file:
        raise ValueError(f"model '{model.name}' is defined by torch only; give an .onnx file, which OpenVINO reads too")
    import openvino as ov

    from detector.networks.openvino_graph import scores_model
    from detector.runtimes.base import DET, summed_leaves

    graph = scores_model(model, load_weights(model), summed_leaves(DET, model), batch or 1, precision == "int8")
    if batch is None:
        free_batch(graph)
    for key, value in notes(model, precision).items():
        graph.set_rt_info(value, [PROGRAM.rsplit(".", 1)[1], key])
    # bf16: weights in 16 bits (f16, which keeps more digits than bf16); OpenVINO computes in what the CPU has
    ov.save_model(graph, path, compress_to_fp16=precision == "bf16")


def free_batch(graph: ov.Model) -> None:
    """Let a graph that was built for batch 1 take any: reshapes keep the first axis, whatever it is."""
    import openvino as ov
    from openvino import opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Reshape":
            continue
        pattern = node.input_value(1).get_node()
        if pattern.get_type_name() == "Constant" and pattern.data.flatten()[0] == 1:
            values = np.concatenate([[0], pattern.data.flatten()[1:]]).astype(np.int64)
            kept = ops.reshape(node.input_value(0), ops.constant(values), special_zero=True)
            node.output(0).replace(kept.output(0))
    shape = graph.input(0).get_partial_shape()
    shape[0] = ov.Dimension(-1)
    graph.reshape(shape)
    if not graph.output(0).get_partial_shape()[0].is_dynamic:
        raise ValueError("this network's graph is of one batch size only; give --batch N")


def notes(model: Model, precision: str) -> dict[str, str]:
    """Return what the file says of itself: where it is from, and the classes in the order of the scores."""
    return {
        "model": model.name,
        "network": model.network,
        "weights_sha256": file_digest(model) if model.file else "",
        "precision": precision,
        "crops": f"uint8 [batch, {model.size}, {model.size}, 3] RGB; normalisation is in the graph",
        "classes": "\n".join(("background", *model.labels)),
    }


def _new(out: Path) -> NewFile:
    """Return the file to write, with the .bin of an .xml. Raises: ValueError for another suffix; OSError."""
    if out.suffix not in (ONNX, IR):
        raise ValueError(f"{out}: give a file name that ends in {ONNX} or {IR}")
    check_target(out)
    return NewFile(out, (".bin",) if out.suffix == IR else ())


def check_target(out: Path) -> None:
    """Raise OSError where the file `out` cannot be written, before anything is computed for it."""
    if out.is_dir():
        raise IsADirectoryError(f"cannot write {out}: it is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: {out.parent} is no folder; make it first")
    try:
        check_folder(out.parent)
    except OSError as error:
        raise type(error)(f"cannot write {out}: {error.strerror}") from None


def compare(model: Model, file: Path, precision: str, crops: Crops) -> Agreement:
    """Return how far the scores of an exported file are from those of our own runtime.

    Raises: ValueError for a file that cannot be run or takes other crops, OSError when it cannot be read.
    """
    reference = load_classifier(model, "auto", "cpu", precision, BATCH)(crops)
    return agreement(run_file(file, crops, precision), reference)


def check(result: Agreement, out: Path, precision: str) -> None:
    """Raise ValueError when `result` is beyond the tolerance of `precision`."""
    tolerance = TOLERANCES[precision]
    if result.largest > tolerance.largest or result.top < tolerance.top:
        raise ValueError(
            f"{out}: differs from our runtime beyond the tolerance of {precision} ({tolerance.largest:g} at most, top "
            f"class equal on {tolerance.top:.0%}); {result}"
        )


def require_packages() -> None:
    """Raise ValueError where a package that ONNX files need is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX files need {' and '.join(missing)}; pip install 'googlenet-rcnn[export]', or give .xml")


def run_file(file: Path, crops: Crops, precision: str) -> Scores:
    """Return the scores [N, 1 + classes] of an exported file, its batches of 1, 5 and 8 where it takes any.

    Raises: ValueError for a file that cannot be run or takes other crops, OSError when it cannot be read.
    """
    with file.open("rb"):
        pass
    try:
        shape, infer = (_onnx_session if file.suffix == ONNX else _ir_request)(file, precision)
        if shape[1:] != crops.shape[1:]:
            raise ValueError(f"{file}: takes {list(shape[1:])}, the model's crops are {list(crops.shape[1:])}")
        parts, start = [], 0
        for size in _sizes(shape[0], len(crops)):
            batch = crops[start : start + size]
            missing = (shape[0] or len(batch)) - len(batch)
            filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)])
            parts.append(infer(filled)[: len(batch)].copy())
            start += size
    except ValueError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise ValueError(f"{file}: cannot be run: {str(error).strip().splitlines()[-1]}") from None
    return np.concatenate(parts)


def _sizes(batch: int, count: int) -> Iterator[int]:
    """Yield sizes of batches that cover `count` crops: `batch`, or for 0 (any) 1, 5, 8, 8, ..."""
    sizes = iter((1, 5))
    while count > 0:
        size = batch or next(sizes, BATCH)
        yield size
        count -= size


Infer = tuple[tuple[int, ...], "Callable[[Crops], Scores]"]  # input shape, 0 for any; and what runs a batch


def _onnx_session(file: Path, precision: str) -> Infer:
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    (crops,) = session.get_inputs()
    shape = tuple(side if isinstance(side, int) else 0 for side in crops.shape)
    return shape, lambda batch: np.asarray(session.run(None, {crops.name: batch})[0], np.float32)


def _ir_request(file: Path, precision: str) -> Infer:
    from detector.runtimes.compiled import core

    hint = "bf16" if precision == "bf16" else "f32"
    compiled = core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    shape = compiled.input(0).get_partial_shape()
    sides = tuple(0 if side.is_dynamic else side.get_length() for side in shape)
    return sides, lambda batch: np.asarray(compiled(batch)[0], np.float32)


def _batch(text: str) -> int | None:
    """Parse --batch."""
    if text == DYNAMIC:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"must be 1..1024 or {DYNAMIC}, got '{text}'")
    return int(text)


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(PROGRAM, DESCRIPTION, EPILOG)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model of detect --list-models, a run folder or a weights file; NAME@SIZE for crops of that size",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="file to write: .onnx, or .xml with .bin"
    )
    parser.add_argument("--precision", choices=tuple(TOLERANCES), default="f32", help="(default: f32; bf16: .xml only)")
    parser.add_argument("--batch", metavar=f"N|{DYNAMIC}", type=_batch, help=f"crops at a time (default: {DYNAMIC})")
    parser.add_argument("--check", action="store_true", help="write nothing; compare the FILE that is there")
    parser.add_argument("--seed", type=int, default=0, help="of the crops to compare on (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_args(argv)
    if args.out.suffix not in (ONNX, IR):
        raise UsageError(f"--out {args.out}: must end in {ONNX} or {IR}")
    if args.out.suffix == ONNX and args.precision == "bf16":
        raise UsageError("--precision bf16: for an .xml file only")
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, got {args.seed}")
    if args.out.suffix == ONNX:
        require_packages()
    if not args.check:
        check_target(args.out)
    model = find_model(args.model)
    from detector.agreement import image_paths, proposal_crops

    console = Console(PROGRAM, args.quiet)
    (crops,) = proposal_crops(image_paths([]), model, (CROPS,), args.seed)
    agreed: Agreement | None
    if args.check:
        check(agreed := compare(model, args.out, args.precision, crops), args.out, args.precision)
    else:
        agreed = export(model, args.out, args.precision, args.batch, crops)
        files = [args.out, args.out.with_suffix(".bin")] if args.out.suffix == IR else [args.out]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        console.note(f"wrote {' and '.join(map(str, files))} ({megabytes:.1f} MB)")
    console.note(f"against our runtime, {args.precision}, {agreed}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit status."""
    return run(PROGRAM, lambda: _main(argv))


if __name__ == "__main__":
    sys.exit(main())
