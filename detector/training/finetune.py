"""R-CNN's fine-tuning of a classifier on warped regions (R-CNN section 2.3, GoogLeNet section 8).

With frozen layers their outputs are computed once and kept (feature_cache.py), and what is trained are the layers
behind them. Otherwise regions are cropped as they are drawn, and the whole network is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from detector.networks.torch_module import ConvReLU, copy_into
from detector.networks.training_module import TrainingNetwork, fold, start_from, training_network
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
from detector.weights import Weights, load_weights
from detector.weights_writer import save_weights
from proposals.files import write_text_atomic

VALIDATED = 4096  # held-out regions that are looked at, half of them foreground
BATCH = 256


@dataclass
class RegionBatches:
    """Makes the mini-batch of a step from cropped regions, or from kept features; picklable, for worker processes."""

    pool: RegionPool
    sampler: Sampler
    model: Model
    rank: int = 0
    size: int = 1
    cache: FeatureCache | None = None
    scored: bool = False  # whether the old network's scores come with the regions
    pictures: PictureCache = field(default_factory=lambda: PictureCache(0))

    def __call__(self, step: int) -> Batch:
        """Return this process's part of the mini-batch: every `size`-th region."""
        drawn = self.sampler.draw(step)
        rows, mirrored = drawn.rows[self.rank :: self.size], drawn.mirrored[self.rank :: self.size]
        return self.batch(rows, mirrored)

    def batch(self, rows: Longs, mirrored: npt.NDArray[np.bool_]) -> Batch:
        """Return these regions; mirrored is of no account where features are kept, which are mirrored or not."""
        labels = self.pool.labels[rows]
        found = {
            "labels": torch.from_numpy(labels),
            "known": torch.from_numpy(self.pool.known[self.pool.pictures[rows]]),
        }
        if self.cache is None:
            found["input"] = self._crops(rows, mirrored)
        else:
            found["input"] = torch.from_numpy(self.cache.features[rows].astype(np.float32))
            if self.scored:
                found["scores"] = torch.from_numpy(self.cache.scores[rows].astype(np.float32))
        return found

    def _crops(self, rows: Longs, mirrored: npt.NDArray[np.bool_]) -> Tensor:
        """Return the warped regions as the network takes them, float32 [B, 3, size, size]."""
        model = self.model
        crops = np.empty((len(rows), model.size, model.size, 3), np.uint8)
        for place, (row, turned) in enumerate(zip(rows.tolist(), mirrored.tolist(), strict=True)):
            image = self.pictures.read(self.pool.paths[self.pool.pictures[row]])
            box = self.pool.boxes[row : row + 1]
            warp(image, box, model.size, model.fill, mirrored=turned, out=crops[place : place + 1])
        return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - model.mean) / model.scale


class FinetuneTask:
    """The stage `finetune` for the loop."""

    def __init__(self, o: FinetuneOptions, model: Model, pool: RegionPool, cache: FeatureCache | None) -> None:
        """model: where the weights begin; cache: of the frozen layers' outputs for `pool`, None where none is frozen.

        Raises: ValueError for options that do not go together.
        """
        if o.distill and (cache is None or cache.scores.shape[1] != 1 + len(pool.class_names)):
            raise ValueError("distill keeps old scores of the same classes; it needs frozen layers and classes = det")
        self.o, self.model, self.pool = o, model, pool
        self.outputs = 1 + len(pool.class_names)
        self.weights = load_weights(model)
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
            if cache is not None and model.sharpness:
                _soften(self.network, cache, model.sharpness)
        held_out = held_out_pictures(pool, o.held_out, o.pool_seed)[pool.pictures]
        usable = np.ones(len(pool), bool) if cache is None else cache.scores.astype(np.float32).sum(axis=1) > 0
        labels = np.where(held_out | ~usable, -1, pool.labels)
        self.sampler = Sampler(labels, pool.sets.astype(np.int64), o.foreground, o.background, o.balance, o.seed)
        pictures = PictureCache(o.batch_memory)
        self.make = RegionBatches(pool, self.sampler, model, pictures=pictures, cache=cache, scored=o.distill > 0)
        self.batch_size = o.foreground + o.background
        # a pass: every foreground region once, on the average
        self.steps_per_epoch = max(1.0, int((labels > BACKGROUND).sum()) / max(o.foreground, 1))
        self.held_out = _some_of_each(np.flatnonzero(held_out & usable), pool.labels, o.pool_seed)

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
                torch.from_numpy(pool.known[pool.pictures[rows]]),
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


@torch.no_grad()
def _soften(network: TrainingNetwork, cache: FeatureCache, sharpness: float) -> None:
    """Scale the classifier so that its logits have the standard deviation that the old scores were made with."""
    rows = np.linspace(0, len(cache.features) - 1, min(BATCH, len(cache.features))).astype(np.int64)
    logits = network.eval()(torch.from_numpy(cache.features[rows].astype(np.float32))).main
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
