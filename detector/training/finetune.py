"""R-CNN's fine-tuning of a classifier on warped regions (R-CNN section 2.3, GoogLeNet section 8).

With frozen layers, the layers behind them are trained; the frozen layers' outputs are computed once and kept
(features.py), or anew for each region that is drawn. Without, the whole network is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.classes import BACKGROUND, det_classes
from detector.datasets.ground_truth import Longs
from detector.model import SVM, TRAINED, Model, Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import inception_v3
from detector.networks.layers import Conv, Layer, convolutions, cut_after
from detector.networks.torch_module import ConvReLU, TrainingNetwork, copy_into, fold, start_from, training_network
from detector.training.features import FeatureCache
from detector.training.loop import Group
from detector.training.mini_batches import PictureCache, RegionBatches, Sampler
from detector.training.options import FinetuneOptions
from detector.training.processes import Batch, step_batches
from detector.training.regions import RegionPool
from detector.training.run_folder import RunFolder
from detector.weights import Weights, load_weights, save_weights
from proposals.files import write_text_atomic

VALIDATED = 4096  # held-out regions that are looked at, half of them foreground
BATCH = 256
ROUNDS = 100  # of L-BFGS


def region_loss(logits: Tensor, labels: Tensor, known: Tensor, unlabelled: float = 0.0) -> Tensor:
    """Return the loss of each region [B]: minus the logarithm of the probability of what is known about it.

    logits: [B, 1 + C]; labels: int64 [B]; known: bool [B, 1 + C], the classes that the region's picture labels, the
    background among them. A region with a label is that class. One without is none of the known classes: background or
    any other, so that the classes that are not known there get no gradient against the background. unlabelled: 0..1,
    how much it counts as background nevertheless; 1 is the plain softmax loss.
    """
    log_p = functional.log_softmax(logits.float(), dim=1)
    plain = -log_p.gather(1, labels[:, None]).squeeze(1)
    possible = ~known
    possible[:, BACKGROUND] = True
    masked = -torch.logsumexp(log_p.masked_fill(~possible, -torch.inf), dim=1)
    background = unlabelled * plain + (1 - unlabelled) * masked
    return torch.where(labels == BACKGROUND, background, plain)


def kept_scores_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return how far the network has moved from old scores among the classes, for each region [B].

    logits, scores: [B, 1 + C]. The Kullback-Leibler divergence of the two distributions over the classes, given that
    the region is no background: what is an object may be learned anew, what kind it is must not be forgotten.
    """
    old = scores[:, 1:].float().clamp_min(1e-8)
    old = old / old.sum(dim=1, keepdim=True)
    new = functional.log_softmax(logits[:, 1:].float(), dim=1)
    return (old * (old.log() - new)).sum(dim=1)


class FinetuneTask:
    """The stage `finetune` for the loop."""

    def __init__(
        self, o: FinetuneOptions, model: Model, pool: RegionPool, cache: FeatureCache | None, device: str = "cpu"
    ) -> None:
        """model: where the weights begin; cache: the frozen layers' outputs for `pool`, None where they are not kept;
        device: where frozen layers and teachers run.

        Raises: ValueError for options that do not go together.
        """
        self.o, self.model, self.pool = o, model, pool
        self.outputs = 1 + len(pool.class_names)
        self.weights = load_weights(model)
        layers = network_layers(model, self.outputs)
        self.cut = cut_after(layers, o.frozen) if o.frozen else 0
        self.kept = cut_after(layers, o.kept) - self.cut if o.kept else 0  # parts of what is trained that stay
        from_imagenet = model.outputs == "imagenet" and o.classes == "det"
        self.network = self._start(layers, from_imagenet)
        held_out = held_out_pictures(pool, o.held_out, o.pool_seed)[pool.pictures]
        usable = np.ones(len(pool), bool) if cache is None else cache.scores.astype(np.float32).sum(axis=1) > 0
        labels = np.where(held_out | ~usable, -1, pool.labels)
        sets = pool.sets.astype(np.int64)
        self.sampler = Sampler(labels, sets, o.foreground, o.background, o.balance, o.seed, o.shares)
        self.make = RegionBatches(
            pool,
            self.sampler,
            model,
            cache=cache,
            scored=o.distill > 0,
            frozen=o.frozen if cache is None else "",
            precision=o.cut_precision,
            device=device,
            teachers=_teachers(o, model, self.outputs) if o.distill and cache is None else (),
            pictures=PictureCache(o.batch_memory),
        )
        if from_imagenet and model.sharpness:
            _soften(self.network, self._some_inputs(), model.sharpness)
        self.batch_size = o.foreground + o.background
        # a pass: every foreground region once, on the average
        self.steps_per_epoch = max(1.0, int((labels > BACKGROUND).sum()) / max(o.foreground, 1))
        self.held_out = _some_of_each(np.flatnonzero(held_out & usable), pool.labels, o.pool_seed)

    def _start(self, layers: tuple[Layer, ...], from_imagenet: bool) -> TrainingNetwork:
        """Return the layers behind the frozen ones with the weights that they begin with."""
        network = training_network(layers[self.cut :], "none", self.o.dropout, self.o.seed)
        if len(network.convolutions()) > 1:  # a classifier alone begins anew
            start_from(network, self.weights)
        if self.kept:
            keep_layers(network, self.kept, load_weights(find_model(self.o.kept_from)))
        if from_imagenet:
            start_classifier(network, self.weights, layers[-1])
        return network

    def _some_inputs(self) -> Tensor:
        """Return what the trained layers see of a few regions, evenly spaced over the pool."""
        rows = np.linspace(0, len(self.pool) - 1, min(BATCH, len(self.pool))).astype(np.int64)
        return replace(self.make, teachers=()).batch(rows, np.zeros(len(rows), bool))["input"]

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
            Spec(
                network=self.model.network,
                size=self.model.size,
                mean=self.model.mean,
                scale=self.model.scale,
                classes=self.outputs,
                width=self.model.width,
                norm=self.model.norm,
                class_names=self.pool.class_names if self.o.classes == "own" else (),
            ),
        )
        return Path(model.file)


def check_start(name: str, model: Model) -> None:
    """Raise ValueError where the weights of `model` cannot be begun with: `name`, as it was given, has SVMs."""
    if model.head == SVM:
        raise ValueError(
            f"{name}: its classifier is SVMs, which cannot be trained further; start from the "
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


def _teachers(o: FinetuneOptions, model: Model, outputs: int) -> tuple[Model, ...]:
    """Return the models whose scores are kept. Raises: ValueError for one of other classes."""
    teachers = tuple(find_model(name) for name in o.teachers) or (model,)
    for teacher in teachers:
        if teacher.outputs != "imagenet" and teacher.classes != outputs:
            raise ValueError(f"{teacher.name}: has {teacher.classes} outputs; a teacher needs {outputs}, or ImageNet's")
    return teachers


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


def fit_temperature(
    logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor, unlabelled: float
) -> tuple[float, float]:
    """Return temperature T and offset b, so that softmax(logits / T + b at the background) has the least loss.

    logits: [N, 1 + C]; labels: int64 [N]; known: bool [N, 1 + C]; weights: [N]; unlabelled: as of `region_loss`.
    Without regions of both kinds: 1 and 0.
    """
    if not ((labels == BACKGROUND).any() and (labels > BACKGROUND).any()):
        return 1.0, 0.0
    logits, weights = logits.double(), weights.double() / weights.double().sum()
    fitted = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log T, b
    optimizer = torch.optim.LBFGS([fitted], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (weights * region_loss(_moved(logits, fitted), labels, known, unlabelled)).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(fitted[0].detach().exp()), float(fitted[1].detach())


def _moved(logits: Tensor, fitted: Tensor) -> Tensor:
    offset = torch.zeros(logits.shape[1], dtype=logits.dtype)
    offset[BACKGROUND] = 1
    return logits * torch.exp(-fitted[0]) + offset * fitted[1]


@torch.no_grad()
def fold_temperature(classifier: ConvReLU, temperature: float, offset: float) -> None:
    """Make the classifier give logits / temperature, the background's with `offset` added."""
    assert classifier.conv.bias is not None  # a classifier has one
    classifier.conv.weight /= temperature
    classifier.conv.bias /= temperature
    classifier.conv.bias[BACKGROUND] += offset
