"""Training a classifier from labelled pictures (GoogLeNet section 6), or from the scores of others (distillation)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.classes import IMAGENET_CLASSES
from detector.model import TRAINED, Spec, find_model
from detector.networks.googlenet import googlenet
from detector.networks.inception_v3 import inception_v3
from detector.networks.torch_module import TrainingNetwork, fold, start_from, training_network
from detector.runtimes.base import IMAGENET, Crops, Scores
from detector.runtimes.load import load_classifier
from detector.runtimes.onnx import OnnxClassifier
from detector.training.augmentation import augmented, centre_crop, mixup
from detector.training.data import ImageSet
from detector.training.loop import Group
from detector.training.options import ClassifierOptions, DistillOptions, PictureOptions
from detector.training.processes import Batch, step_batches
from detector.training.run_folder import RunFolder
from detector.weights import load_weights, save_weights
from proposals.console import printable
from proposals.images import ImageError

SHORT_SIDE = 256 / 224  # of a validated picture over the crop's, section 7's first scale
TOP = 5
BATCH = 64

Teacher = Callable[[Crops], Scores]


@dataclass
class ImageBatches:
    """Makes the mini-batch of a step; picklable, for worker processes. Mini-batches go on from one pass to the next."""

    images: ImageSet
    o: PictureOptions
    rank: int = 0
    size: int = 1
    _order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = field(default=None, repr=False)

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return pass and picture of each sample of a step's mini-batch."""
        first = step * self.o.mini_batch
        found = []
        for place in range(first, first + self.o.mini_batch):
            epoch, position = divmod(place, len(self.images))
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, self.images.order(epoch, self.o.seed)
            found.append((epoch, int(self._order[1][position])))
        return found

    def __call__(self, step: int) -> Batch:
        """Return this process's part: crops uint8 [B, size, size, 3] and labels int64 [B]."""
        own = self.places(step)[self.rank :: self.size]
        crops = np.empty((len(own), self.o.size, self.o.size, 3), np.uint8)
        labels = np.empty(len(own), np.int64)
        for place, (epoch, index) in enumerate(own):
            crops[place], labels[place] = self._sample(epoch, index)
        return {"crops": torch.from_numpy(crops), "labels": torch.from_numpy(labels)}

    def _sample(self, epoch: int, index: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], int]:
        """Return the crop and label of a picture in a pass; one that cannot be read is said, the next taken for it."""
        o = self.o
        for shift in range(len(self.images)):
            chosen = (index + shift) % len(self.images)
            try:
                image = self.images.read(chosen)
            except ImageError as error:
                text = f"picture {chosen}: {printable(error.reason)}; the next one is taken"
                print(text, file=sys.stderr, flush=True)
                continue
            rng = np.random.default_rng([o.seed, epoch, index])
            crop = augmented(
                image,
                o.size,
                rng,
                area=(o.area_min, 1.0),
                aspect=(o.aspect_min, 1 / o.aspect_min),
                photometric=o.photometric,
                interpolations=o.interpolations,
            )
            return crop, int(self.images.labels[chosen])
        raise ValueError("no picture of the data can be read")


class ClassifierTask:
    """The stages `classifier` and, with teachers, `distill` for the loop."""

    def __init__(
        self, o: PictureOptions, images: ImageSet, validation: ImageSet | None, teachers: tuple[Teacher, ...] = ()
    ) -> None:
        """images: what is learned from; validation: labelled pictures of the same classes, or None.

        Raises: ValueError for weights to start from that do not fit.
        """
        self.o, self.images, self.teachers = o, images, teachers
        imagenet = bool(teachers) or len(images.class_names) == IMAGENET_CLASSES
        # own classes stand behind an output for the background, which detection needs and nothing here is
        self.first = 0 if imagenet else 1
        self.classes = IMAGENET_CLASSES if imagenet else 1 + len(images.class_names)
        if o.network == "googlenet":
            layers = googlenet(self.classes, o.norm, o.width, o.auxiliary)
        else:
            layers = inception_v3(self.classes)
        batch_norm = o.norm == "batch" and not o.start  # stored weights have it folded in
        self.network = training_network(layers, "batch" if batch_norm else "none", o.dropout, o.seed)
        if o.start:
            start_from(self.network, load_weights(find_model(o.start)))
        self.make = ImageBatches(images, o)
        self.batch_size = o.mini_batch
        self.steps_per_epoch = len(images) / o.mini_batch
        self.validation = None if validation is None else _validated(validation, o)

    def groups(self) -> list[Group]:
        """Return all parameters: everything learns at one rate."""
        return [Group(list(self.network.parameters()), 1.0)]

    def batches(self, first: int, last: int, rank: int, size: int) -> Iterator[Batch]:
        """Yield the mini-batches of the loop, with the teachers' scores where there are any."""
        self.make.rank, self.make.size = rank, size
        for step, batch in enumerate(step_batches(self.make, first, last, self.o.workers), start=first):
            if self.teachers:
                crops = batch["crops"].numpy()
                batch["targets"] = torch.from_numpy(np.mean([teacher(crops) for teacher in self.teachers], axis=0))
            elif isinstance(self.o, ClassifierOptions) and self.o.mixup:
                rng = np.random.default_rng([self.o.seed, step, rank])
                one_hot = functional.one_hot(batch["labels"] + self.first, self.classes).numpy().astype(np.float32)
                mixed, targets = mixup(batch["crops"].numpy().astype(np.float32), one_hot, rng, self.o.mixup)
                batch["crops"], batch["targets"] = torch.from_numpy(mixed), torch.from_numpy(targets)
            yield batch

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the main classifier's part of it, and its error on these crops."""
        logits = network(self._input(batch["crops"]))
        main, *sides = (self._loss(of.float(), batch) for of in (logits.main, *logits.auxiliary))
        total = main + self.o.auxiliary_weight * sum(sides, torch.zeros_like(main))
        truth = batch["targets"].argmax(dim=1) if "targets" in batch else batch["labels"] + self.first
        error = (logits.main.argmax(dim=1) != truth).float().mean()
        return {"loss": total, "main": main, "error": error}

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return one classifier's loss: cross-entropy with the labels, or with the teachers' scores."""
        if isinstance(self.o, ClassifierOptions):
            targets = batch.get("targets", batch["labels"] + self.first)
            return functional.cross_entropy(logits, targets, label_smoothing=self.o.label_smoothing)
        assert isinstance(self.o, DistillOptions)
        t = self.o.temperature
        targets = (batch["targets"].clamp_min(1e-8).log() / t).softmax(dim=1)
        log_p = functional.log_softmax(logits / t, dim=1)
        return t * t * functional.kl_div(log_p, targets, reduction="batchmean")

    def _input(self, crops: Tensor) -> Tensor:
        return (crops.permute(0, 3, 1, 2).float() - self.o.mean) / self.o.scale

    def contents(self, step: int) -> str:
        """Return the pictures of a mini-batch."""
        return "pictures " + ", ".join(str(index) for _, index in self.make.places(step))

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return top-1 and top-5 error of centre crops; score: the share of right answers."""
        if self.validation is None:
            return {}
        crops, labels = self.validation
        device = next(network.parameters()).device
        ranks = []
        for start in range(0, len(crops), BATCH):
            part = torch.from_numpy(crops[start : start + BATCH]).to(device)
            best = network(self._input(part)).main.topk(min(TOP, self.classes), dim=1).indices.cpu()
            ranks.append(best == torch.from_numpy(labels[start : start + BATCH] + self.first)[:, None])
        hits = torch.cat(ranks)
        top1, top5 = float(hits[:, 0].float().mean()), float(hits.any(dim=1).float().mean())
        return {"score": top1, "top1_error": 1 - top1, "top5_error": 1 - top5}

    def export(self, network: nn.Module, folder: RunFolder) -> Path:
        """Write the weights, batch norm folded in, without the auxiliary classifiers."""
        assert isinstance(network, TrainingNetwork)
        o = self.o
        arrays = {
            name: array.astype(np.float16) if name.endswith(".weight") else array
            for name, array in fold(network.eval()).items()
        }
        model = save_weights(
            folder.path / TRAINED,
            arrays,
            Spec(
                network=o.network,
                size=o.size,
                mean=o.mean,
                scale=o.scale,
                classes=self.classes,
                class_names=self.images.class_names if self.first else (),
                width=o.width if o.network == "googlenet" else 1.0,
                norm=o.norm if o.network == "googlenet" else "lrn",
            ),
        )
        return Path(model.file)


def _validated(images: ImageSet, o: PictureOptions) -> tuple[Crops, npt.NDArray[np.int64]]:
    """Return centre crops and labels of the pictures that are validated on, without those that cannot be read."""
    count = min(o.validate_pictures or len(images), len(images))
    crops, labels = [], []
    for index in np.linspace(0, len(images) - 1, count).astype(int).tolist():
        try:
            crops.append(centre_crop(images.read(index), o.size, round(o.size * SHORT_SIDE)))
        except ImageError:
            continue
        labels.append(int(images.labels[index]))
    return np.stack(crops), np.array(labels, np.int64)


def open_teacher(name: str, size: int) -> Teacher:
    """Return a function from crops uint8 [B, size, size, 3] to scores [B, 1000].

    name: a model, run folder or weights file of this project, run at `size`, or an .onnx file, see `OnnxClassifier`.
    Raises: ValueError for a network of other classes; OSError.
    """
    if Path(name).suffix.casefold() != ".onnx":
        return load_classifier(replace(find_model(name), size=size), "auto", "auto", "auto", 0, IMAGENET)
    return OnnxClassifier(Path(name), size)
