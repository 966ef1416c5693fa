"""8 bits against float32: our calibration beside NNCF's, in agreement, mAP and crops/s of one run.

  python benchmarks/quantization.py --pictures 6                       (val2_mini, the shipped network)
  python benchmarks/quantization.py --model mine.safetensors --data mine/ --pictures 6     (of the model's classes)

Both calibrate on the same crops of proposals of the bundled samples, from the float weights; mAP is that of the
data's protocol on the first pictures. NNCF is left out where it is not installed (`pip install nncf`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openvino as ov
from machine import machine

from detector.agreement import agreement, image_paths, proposal_crops
from detector.datasets.read import read_dataset
from detector.detections import Detections
from detector.model import Model, find_model
from detector.networks.openvino_graph import scores_model
from detector.options import DetectOptions
from detector.quantize import CROPS, quantized_file
from detector.runtimes.base import DET, Crops, Scores, summed_leaves
from detector.runtimes.compiled import core
from detector.warp import warp
from detector.weights import load_weights
from eval.detector_run import MIN_SCORE
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from proposals.boxes import nms_per_class
from proposals.images import read_image
from proposals.selective.search import selective_search

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ilsvrc" / "val2_mini"
BATCH = 8


class Runner:
    """A graph compiled as our runtime compiles it, and the time it took over all its crops."""

    def __init__(self, graph: ov.Model, precision: str = "f32") -> None:
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
        compiled = core().compile_model(graph, "CPU", options)
        self.queue = ov.AsyncInferQueue(compiled, int(compiled.get_property("NUM_STREAMS")) + 1)
        self.columns = compiled.output(0).get_shape()[1]
        self.seconds, self.crops = 0.0, 0

    def __call__(self, crops: Crops) -> Scores:
        """Return the scores of `crops`."""
        found = np.zeros((-(-len(crops) // BATCH) * BATCH, self.columns), np.float32)

        def keep(request: ov.InferRequest, start: int) -> None:
            found[start : start + BATCH] = request.get_output_tensor().data

        self.queue.set_callback(keep)
        start_time = time.perf_counter()
        for start in range(0, len(crops), BATCH):
            batch = crops[start : start + BATCH]
            filled = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), np.uint8)])
            self.queue.start_async({0: filled}, start)
        self.queue.wait_all()
        self.seconds += time.perf_counter() - start_time
        self.crops += len(crops)
        return found[: len(crops)]


def graph_of(model: Model, int8: bool) -> ov.Model:
    """Return the graph of a model for batches of BATCH."""
    return scores_model(model, load_weights(model), summed_leaves(DET, model), BATCH, int8)


def nncf_graph(model: Model, crops: Crops) -> ov.Model | None:
    """Return the float graph quantized by NNCF, or None where it is not installed."""
    try:
        import nncf
    except ImportError:
        return None
    batches = [crops[start : start + BATCH] for start in range(0, len(crops) - BATCH + 1, BATCH)]
    return nncf.quantize(graph_of(model, False), nncf.Dataset(batches), subset_size=len(batches))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inception_v3")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", default="val")
    parser.add_argument("--protocol", default="ilsvrc")
    parser.add_argument("--pictures", type=int, default=6, help="the first so many (default: 6)")
    parser.add_argument("--crops", type=int, default=CROPS, help=f"to calibrate on (default: {CROPS})")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.data.exists():
        sys.exit(f"{args.data}: not there; this benchmark needs pictures with boxes")
    o = DetectOptions()
    model = find_model(args.model)
    (crops,) = proposal_crops(image_paths([]), model, (args.crops,), args.seed)
    runners = {"f32": Runner(graph_of(model, False)), "bf16": Runner(graph_of(model, False), "bf16")}
    if model.quantized:
        runners["int8, intervals of its training"] = Runner(graph_of(model, True))
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        file, start = Path(folder) / "int8.safetensors", time.perf_counter()
        file.write_bytes(quantized_file(model, crops, {}))
        seconds["int8, ours"] = time.perf_counter() - start
        runners["int8, ours"] = Runner(graph_of(find_model(str(file)), True))
    start = time.perf_counter()
    peer = nncf_graph(model, crops)
    if peer is None:
        print("NNCF is not installed; its row is left out")
    else:
        seconds["int8, NNCF"] = time.perf_counter() - start
        runners["int8, NNCF"] = Runner(peer)
    truth = read_dataset(args.data, split=args.split)
    truth = truth.select(range(len(truth.names))[: args.pictures])
    if tuple(truth.class_names) != tuple(model.labels):
        sys.exit(f"{args.data}: its classes are not those of {model.name}; take data of the same classes")
    found: dict[str, dict[int, Detections]] = {name: {} for name in runners}
    scores: dict[str, list[Scores]] = {name: [] for name in runners}
    for number, path in enumerate(truth.paths):
        image = read_image(path)
        proposals = selective_search(image, superpixel_scale=o.superpixel_scale, seed=o.seed)
        batch = warp(image, proposals.boxes, model.size, model.fill)
        for name, runner in runners.items():
            own = runner(batch)
            scores[name].append(own)
            kept, columns = nms_per_class(proposals.boxes, own[:, 1:], o.nms, MIN_SCORE, o.top)
            found[name][number] = Detections(
                proposals.boxes[kept],
                np.minimum(own[kept, columns + 1], 1),
                columns + 1,
                proposals.sources[kept],
                (image.shape[1], image.shape[0]),
                truth.class_names,
            )
    reference = np.concatenate(scores["f32"])
    print(machine())
    print(f"{model.name}, {model.size} px; {len(truth.names)} pictures, {len(reference)} proposals, {len(truth)} boxes")
    print(f"calibrated on {len(crops)} crops of the bundled samples, seed {args.seed}")
    print(f"{'run':34}  {'mAP %':>6}  {'top class as f32':>16}  {'mean |d|':>8}  {'crops/s':>7}  {'calibration s':>13}")
    for name, runner in runners.items():
        mean_ap = 100 * evaluate(args.protocol, truth, Predictions.from_detections(found[name])).mean_ap
        versus = agreement(np.concatenate(scores[name]), reference)
        took = f"{seconds[name]:13.1f}" if name in seconds else f"{'':13}"
        speed = runner.crops / runner.seconds
        print(f"{name:34}  {mean_ap:6.2f}  {versus.top:16.2%}  {versus.mean:8.5f}  {speed:7.0f}  {took}")


if __name__ == "__main__":
    main()
