"""R-CNN's fine-tuning of a classifier on warped regions (R-CNN section 2.3, GoogLeNet section 8).

With frozen layers what is trained are the layers behind them; the frozen layers' outputs are computed once and kept
(feature_cache.py), or anew for each region that is drawn. Without, the whole network is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.classes import BACKGROUND, det_classes
from detector.datasets.ground_truth import Longs
from detector.model import SVM, TRAINED, Model, find_model
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import inception_v3
from detector.networks.layers import Conv, Layer, convolutions, cut_after
from detector.networks.torch_module import ConvReLU, TrainingNetwork, copy_into, fold, start_from, training_network
from detector.runtimes.base import Classifier
from detector.runtimes.load import load_classifier
from detector.runtimes.openvino import OpenVinoFeatures
from detector.training.feature_cache import FeatureCache
from detector.training.loop import Batch, Group
from detector.training.mini_batches import Sampler
from detector.training.options import FinetuneOptions
from detector.training.picture_cache import PictureCache
from detector.training.region_loss import kept_scores_loss, region_loss
from detector.training.region_pool import RegionPool
from detector.training.run_folder import RunFolder
from detector.training.step_batches import step_batches
from detector.training.temperature import fit_temperature, fold_temperature
from detector.warp import warp
from detector.weights import Weights, load_weights, save_weights
from proposals.files import write_text_atomic

VALIDATED = 4096  # held-out regions that are looked at, half of them foreground
BATCH = 256


@dataclass
class RegionBatches:
    """Makes the mini-batch of a step from cropped regions, or from kept features; picklable, for worker processes.

    cache: the frozen layers' outputs, kept; frozen: the last of these layers where they are computed anew instead;
    teachers: whose mean scores come with the regions, beside those that `cache` has where it is `scored`.
    """

    pool: RegionPool
    sampler: Sampler
    model: Model
    rank: int = 0
    size: int = 1
    cache: FeatureCache | None = None
    scored: bool = False
    frozen: str = ""
    precision: str = "auto"
    teachers: tuple[Model, ...] = ()
    pictures: PictureCache = field(default_factory=lambda: PictureCache(0))
    _layers: OpenVinoFeatures | None = field(default=None, repr=False)  # loaded by the process that needs them
    _loaded: list[Classifier] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_layers": None, "_loaded": []}

    def __call__(self, step: int) -> Batch:
        """Return this process's part of the mini-batch: every `size`-th region."""
        drawn = self.sampler.draw(step)
        rows, mirrored = drawn.rows[self.rank :: self.size], drawn.mirrored[self.rank :: self.size]
        return self.batch(rows, mirrored)

    def batch(self, rows: Longs, mirrored: npt.NDArray[np.bool_]) -> Batch:
        """Return these regions; kept features are mirrored or not as they were kept."""
        found = {
            "labels": torch.from_numpy(self.pool.labels[rows]),
            "known": torch.from_numpy(self.pool.known_of(rows)),
        }
        if self.cache is not None:
            found["input"] = torch.from_numpy(self.cache.features[rows].astype(np.float32))
            if self.scored:
                found["scores"] = torch.from_numpy(self.cache.scores[rows].astype(np.float32))
            return found
        crops = self._crops(rows, mirrored, self.model)
        found["input"] = self._features(crops) if self.frozen else self._normalised(crops)
        if self.teachers:
            found["scores"] = torch.from_numpy(self._taught(rows, mirrored, crops))
        return found

    def _crops(self, rows: Longs, mirrored: npt.NDArray[np.bool_], model: Model) -> npt.NDArray[np.uint8]:
        """Return the regions warped as `model` takes them, uint8 [B, size, size, 3]."""
        crops = np.empty((len(rows), model.size, model.size, 3), np.uint8)
        for place, (row, turned) in enumerate(zip(rows.tolist(), mirrored.tolist(), strict=True)):
            image = self.pictures.read(self.pool.paths[self.pool.pictures[row]])
            box = self.pool.boxes[row : row + 1]
            warp(image, box, model.size, model.fill, mirrored=turned, out=crops[place : place + 1])
        return crops

    def _normalised(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - self.model.mean) / self.model.scale

    def _features(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        """Return the frozen layers' outputs, float32 [B, C, H, W]."""
        if self._layers is None:
            cut = cut_after(self.model.layers, self.frozen)
            self._layers = OpenVinoFeatures(self.model, cut, self.precision)
        features = np.empty((len(crops), *self._layers.shape), np.float32)

        def write(start: int, stop: int, out: npt.NDArray[np.uint8]) -> None:
            out[:] = crops[start:stop]

        self._layers.run(len(crops), write, features)
        return torch.from_numpy(features)

    def _taught(
        self, rows: Longs, mirrored: npt.NDArray[np.bool_], crops: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        """Return the teachers' mean scores of the same regions, [B, 1 + C]; each sees them as it takes crops."""
        if not self._loaded:
            self._loaded = [load_classifier(teacher, "auto", "cpu", "auto", 0) for teacher in self.teachers]
        shape = self.model.size, self.model.fill
        seen = [
            crops if (teacher.size, teacher.fill) == shape else self._crops(rows, mirrored, teacher)
            for teacher in self.teachers
        ]
        scores = [classify(own) for classify, own in zip(self._loaded, seen, strict=True)]
        return np.asarray(np.mean(scores, axis=0), np.float32)


class FinetuneTask:
    """The stage `finetune` for the loop."""

    def __init__(self, o: FinetuneOptions, model: Model, pool: RegionPool, cache: FeatureCache | None) -> None:
        """model: where the weights begin; cache: of the frozen layers' outputs for `pool`, None where none is frozen.

        Raises: ValueError for options that do not go together.
        """
        if o.distill and o.classes != "det":
            raise ValueError("distill keeps old scores of the same classes; it needs classes = det")
        self.o, self.model, self.pool = o, model, pool
        self.outputs = 1 + len(pool.class_names)
        self.weights = load_weights(model)
        teachers: tuple[Model, ...] = ()
        if o.distill and cache is None:
            teachers = tuple(find_model(name) for name in o.teachers) or (model,)
            _check_teachers(teachers, self.outputs)
        layers = network_layers(model, self.outputs)
        self.cut = cut_after(layers, o.frozen) if o.frozen else 0
        self.network = training_network(layers[self.cut :], "none", o.dropout, o.seed)
        if len(self.network.convolutions()) > 1:  # a classifier alone begins anew
            start_from(self.network, self.weights)
        self.kept = 0
        if o.kept:
            self.kept = cut_after(layers, o.kept) - self.cut
            keep_layers(self.network, self.kept, load_weights(find_model(o.kept_from)))
        if model.outputs == "imagenet" and o.classes == "det":
            start_classifier(self.network, self.weights, layers[-1])
        held_out = held_out_pictures(pool, o.held_out, o.pool_seed)[pool.pictures]
        usable = np.ones(len(pool), bool) if cache is None else cache.scores.astype(np.float32).sum(axis=1) > 0
        labels = np.where(held_out | ~usable, -1, pool.labels)
        sets = pool.sets.astype(np.int64)
        self.sampler = Sampler(labels, sets, o.foreground, o.background, o.balance, o.seed, o.shares)
        pictures = PictureCache(o.batch_memory)
        self.make = RegionBatches(
            pool,
            self.sampler,
            model,
            cache=cache,
            scored=o.distill > 0,
            frozen=o.frozen if cache is None else "",
            precision=o.cut_precision,
            teachers=teachers,
            pictures=pictures,
        )
        if model.outputs == "imagenet" and o.classes == "det" and model.sharpness:
            _soften(self.network, self._some_inputs(), model.sharpness)
        self.batch_size = o.foreground + o.background
        # a pass: every foreground region once, on the average
        self.steps_per_epoch = max(1.0, int((labels > BACKGROUND).sum()) / max(o.foreground, 1))
        self.held_out = _some_of_each(np.flatnonzero(held_out & usable), pool.labels, o.pool_seed)

    def _some_inputs(self) -> Tensor:
        """Return what the trained layers see of a few regions, evenly spaced over the pool."""
        if self.make.cache is not None:
            count = len(self.make.cache.features)
            rows = np.linspace(0, count - 1, min(BATCH, count)).astype(np.int64)
            return torch.from_numpy(self.make.cache.features[rows].astype(np.float32))
        rows = np.linspace(0, len(self.pool) - 1, min(BATCH, len(self.pool))).astype(np.int64)
        alone = replace(self.make, teachers=())
        return alone.batch(rows, np.zeros(len(rows), bool))["input"]

    def groups(self) -> list[Group]:
        """Return the classifier, which begins anew, and the rest."""
        head = list(self.network.parts[-1].parameters())
        kept = [parameter for part in self.network.parts[: self.kept] for parameter in part.parameters()]
        own = {id(parameter) for parameter in [*head, *kept]}
        rest = [parameter for parameter in self.network.parameters() if id(parameter) not in own]
        return [Group(rest, 1.0), Group(head, self.o.head_rate)]

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield the mini-batches of the loop."""
        self.make.rank, self.make.size = rank, size
        return step_batches(self.make, first, last, self.o.workers)

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the regions, and of what is forgotten."""
        logits = network(batch["input"]).main
        regions = region_loss(logits, batch["labels"], batch["known"], self.o.unlabelled).mean()
        if "scores" not in batch:
            return {"loss": regions}
        kept = kept_scores_loss(logits, batch["scores"]).mean()
        return {"loss": regions + self.o.distill * kept, "regions": regions, "kept": kept}

    def contents(self, step: int) -> str:
        """Return the pictures of a mini-batch."""
        rows = self.sampler.draw(step).rows
        names = dict.fromkeys(self.pool.paths[picture].name for picture in self.pool.pictures[rows])
        return ", ".join(names)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the loss and the share of right answers, of held-out foreground and background; score: their mean."""
        if not len(self.held_out):
            return {}
        losses, right = [], []
        for batch in self._held_out_batches():
            device = next(network.parameters()).device
            batch = {name: value.to(device) for name, value in batch.items()}
            logits = network(batch["input"]).main
            losses.append(region_loss(logits, batch["labels"], batch["known"], self.o.unlabelled).cpu())
            right.append((logits.argmax(dim=1) == batch["labels"]).cpu())
        hits: npt.NDArray[np.bool_] = torch.cat(right).numpy()
        labels = self.pool.labels[self.held_out]
        kinds = {"foreground": labels > BACKGROUND, "background": labels == BACKGROUND}
        found = {name: float(hits[own].mean()) for name, own in kinds.items() if own.any()}
        return {"score": float(np.mean(list(found.values()))), "loss": float(torch.cat(losses).mean()), **found}

    @torch.no_grad()
    def _calibrate(self, network: TrainingNetwork, folder: RunFolder) -> None:
        """Fold a temperature and an offset of the background into the classifier, fitted on the held-out regions."""
        if not len(self.held_out):
            return
        logits = [network(batch["input"]).main for batch in self._held_out_batches()]
        rows, pool = self.held_out, self.pool
        weights = np.ones(len(rows), np.float32) if pool.stands_for is None else pool.stands_for[rows]
        with torch.enable_grad():
            temperature, offset = fit_temperature(
                torch.cat(logits),
                torch.from_numpy(pool.labels[rows]),
                torch.from_numpy(pool.known_of(rows)),
                torch.from_numpy(weights),
                self.o.unlabelled,
            )
        fold_temperature(network.convolutions()[-1], temperature, offset)
        found = {"temperature": temperature, "background_offset": offset, "regions": len(rows)}
        write_text_atomic(folder.path / "calibration.json", json.dumps(found) + "\n")

    def _held_out_batches(self) -> Iterator[Batch]:
        for start in range(0, len(self.held_out), BATCH):
            rows = self.held_out[start : start + BATCH]
            yield self.make.batch(rows, np.zeros(len(rows), bool))

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the weights: those of the frozen layers as they were, those trained in float16."""
        assert isinstance(network, TrainingNetwork)
        self._calibrate(network.eval(), folder)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for layer in convolutions(self.model.layers[: self.cut]):
            arrays[f"{layer.name}.weight"] = self.weights.kernel(layer.name).astype(np.float16)
            arrays[f"{layer.name}.bias"] = self.weights.bias(layer.name)
        for name, array in fold(network).items():
            arrays[name] = array.astype(np.float16) if name.endswith(".weight") else array
        model = save_weights(
            folder.path / TRAINED,
            arrays,
            network=self.model.network,
            size=self.model.size,
            mean=self.model.mean,
            scale=self.model.scale,
            classes=self.outputs,
            width=self.model.width,
            norm=self.model.norm,
            class_names=self.pool.class_names if self.o.classes == "own" else (),
        )
        return Path(model.file)


def check_start(name: str, model: Model) -> None:
    """Raise ValueError where the weights of `model` cannot be begun with: `name`, as it was given, has SVMs."""
    if model.head == SVM:
        raise ValueError(
            f"{name}: its classifier is SVMs, whose outputs are no logits that can be trained further; start from the "
            "finetuned model that the SVMs were trained on (model, in the config.toml of their run)"
        )


def network_layers(model: Model, outputs: int) -> tuple[Layer, ...]:
    """Return the layers of the network of `model` with another number of outputs."""
    if model.network == "googlenet":
        return googlenet(outputs, model.norm, model.width)
    return inception_v3(outputs)


def start_classifier(network: TrainingNetwork, weights: Weights, head: Layer) -> None:
    """Start a classifier of background and the 200 classes from ImageNet's: each output the mean of its leaves'.

    Background is the mean of the classes below none of the 200.
    """
    assert isinstance(head, Conv)
    old, bias = weights.kernel(head.name), weights.bias(head.name)
    leaves = [np.array(c.imagenet) for c in det_classes()]
    groups: list[npt.NDArray[np.int64]] = [np.setdiff1d(np.arange(len(old)), np.concatenate(leaves)), *leaves]
    conv = network.convolutions()[-1].conv
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.stack([old[group].mean(axis=0) for group in groups])))
        conv.bias.copy_(torch.from_numpy(np.array([bias[group].mean() for group in groups], np.float32)))


@torch.no_grad()
def keep_layers(network: TrainingNetwork, count: int, weights: Weights) -> None:
    """Give the first `count` parts of a network these weights, and let them be."""
    for part in network.parts[:count]:
        for module in part.modules():
            if isinstance(module, ConvReLU):
                copy_into(module, weights)
        part.requires_grad_(False)


def _check_teachers(teachers: Sequence[Model], outputs: int) -> None:
    """Raise ValueError for a teacher whose scores are not of background and these classes."""
    for teacher in teachers:
        if teacher.outputs != "imagenet" and teacher.classes != outputs:
            raise ValueError(f"{teacher.name}: has {teacher.classes} outputs; a teacher needs {outputs}, or ImageNet's")


@torch.no_grad()
def _soften(network: TrainingNetwork, inputs: Tensor, sharpness: float) -> None:
    """Scale the classifier so that its logits have the standard deviation that the old scores were made with."""
    logits = network.eval()(inputs).main
    factor = sharpness / float(logits.std(dim=1).mean().clamp_min(1e-6))
    for parameter in network.convolutions()[-1].conv.parameters():
        parameter.mul_(factor)


def held_out_pictures(pool: RegionPool, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which pictures [P] are only validated on: about `share` of them, by chance."""
    return np.random.default_rng([seed, len(pool.paths)]).random(len(pool.paths)) < share


def _some_of_each(rows: Longs, labels: Longs, seed: int) -> Longs:
    """Return at most VALIDATED of `rows`, half of them foreground where there are as many."""
    rng = np.random.default_rng([seed, len(rows)])
    parts = [rows[labels[rows] > BACKGROUND], rows[labels[rows] == BACKGROUND]]
    return np.sort(np.concatenate([rng.permutation(part)[: VALIDATED // 2] for part in parts]))


def cache_for(o: FinetuneOptions, folder: Path) -> Path:
    """Return the folder of the kept features."""
    return Path(o.cache) if o.cache else folder / "cache"
