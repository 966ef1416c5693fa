"""The detector, as section 8 of the GoogLeNet paper describes it: propose, crop, classify, suppress."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detector.detections import Detections
from detector.ensemble import RegionScores, check_members, score_regions
from detector.model import Model, find_model, split_name
from detector.options import DetectOptions
from detector.postprocess import Regions, in_context, regress, soften, suppress, vote, weigh
from detector.runtimes.base import Classifier, Deltas, Scores
from detector.runtimes.load import load_classifier
from detector.warp import warp
from detector.weights import forget
from detector.whole_crops import CONTEXT_MODEL, image_views
from proposals.images import Image, check_image
from proposals.proposer import make_proposer
from proposals.types import Proposals

VIEWS = 4  # of an image for its context


@dataclass(frozen=True)
class Trace:
    """What every stage made of one image, for teaching and measuring; seconds per stage by the wall clock."""

    proposals: Proposals
    crops: int  # that were classified, by all networks together
    scores: npt.NDArray[np.float32]  # [proposals, 1 + classes], column 0 is background
    detections: Detections
    seconds: dict[str, float]
    asked: tuple[int, ...] = ()  # how many of the proposals each network of the ensemble saw
    deltas: Deltas | None = None  # of the box regression, [proposals, classes, 4]; None without


class Detector:
    """The whole pipeline with its networks loaded; one object serves any number of images."""

    def __init__(self, options: DetectOptions | None = None) -> None:
        """Load the network that `options` name (default: the defaults of DetectOptions).

        Raises: FileNotFoundError for an unknown model, ValueError for options that do not go together or damaged
        weights.
        """
        self.options = options or DetectOptions()
        o = self.options
        self.proposer = make_proposer(o, o.seed)
        # not a daemon: the end of Python would abort inside its kernels
        threading.Thread(target=self.proposer.prepare, daemon=False).start()
        names = [o.model, *o.further_models]
        models = [_model(name, o.crop_size) for name in names]
        check_members(models)
        whole = find_model(CONTEXT_MODEL) if o.context else None
        if whole is not None and whole.labels != models[0].labels:
            raise ValueError(
                f"{names[0]} has classes of its own, of which {CONTEXT_MODEL} knows nothing; leave out context"
            )
        moves = [o.bbox and number == 0 for number in range(len(models))]  # the first network tells where boxes go
        self.members = tuple(
            load_classifier(model, o.runtime, o.device, o.precision, o.batch_size, deltas=deltas)
            for model, deltas in zip(models, moves, strict=True)
        )
        self.whole = None if whole is None else load_classifier(whole, o.runtime, o.device, "auto", VIEWS)
        forget()

    @property
    def classify(self) -> Classifier:
        """The network, of an ensemble the first one: crops [N, S, S, 3] in, scores [N, 1 + classes] out."""
        return self.members[0]

    def __call__(self, image: Image, path: Path | None = None) -> Detections:
        """Return what is in `image` (uint8 RGB [H, W, 3]), by falling score; path: as of `propose`.

        Raises: ValueError for another array, or an image that a file of proposals lacks.
        """
        return self.trace(image, path=path).detections

    def trace(self, image: Image, proposals: Proposals | None = None, path: Path | None = None) -> Trace:
        """Return the detections of `image` together with what each stage made on the way.

        proposals: the regions to look at; None: those of `propose`.
        """
        check_image(image)
        begin = time.perf_counter()
        if proposals is None:
            proposals = self.propose(image, path)
        proposed = time.perf_counter()
        found = self.score(image, proposals)
        scored = time.perf_counter()
        detections = self.suppress(image, proposals, found.scores, found.deltas)
        seconds = {
            "propose": proposed - begin,
            "crop": found.crop_seconds,
            "classify": scored - proposed - found.crop_seconds,
            "suppress": time.perf_counter() - scored,
        }
        return Trace(proposals, sum(found.asked), found.scores, detections, seconds, found.asked, found.deltas)

    def propose(self, image: Image, path: Path | None = None) -> Proposals:
        """Return the regions to look at: Selective Search with large superpixels, and 200 learned ones (section 8).

        path: of the image, by which a file of proposals knows it.
        """
        return self.proposer(image, path)

    def crop(self, image: Image, proposals: Proposals) -> npt.NDArray[np.uint8]:
        """Return each region warped with its context to what the network takes (R-CNN): uint8 [N, S, S, 3]."""
        model = self.classify.model
        return warp(image, proposals.boxes, model.size, model.fill)

    def score(self, image: Image, proposals: Proposals) -> RegionScores:
        """Return the scores of each region, cropped as `crop` does, combined over the ensemble (section 8)."""
        threshold = self.options.cascade or self.classify.model.cascade
        return score_regions(self.members, image, proposals.boxes, threshold if 0 < threshold < 1 else None)

    def suppress(self, image: Image, proposals: Proposals, scores: Scores, deltas: Deltas | None = None) -> Detections:
        """Return the detections that the threshold and non-maximum suppression, class by class, leave (R-CNN).

        scores: [N, 1 + classes] of the proposals, column 0 being background; deltas: [N, classes, 4] of the box
        regression; None: boxes stay. `detector.postprocess` says what each step does.
        """
        o = self.options
        size = (image.shape[1], image.shape[0])
        regions = Regions(proposals.boxes, scores[:, 1:], proposals.sources, size, deltas)
        if proposals.objectness is not None:
            regions = weigh(regions, proposals.objectness[:, None], o.objectness)
        if self.whole is not None:
            regions = weigh(regions, in_context(self.whole(image_views(image, self.whole.model.size))), o.context)
        found = suppress(regions, o.nms, o.threshold, o.top)
        if deltas is not None:
            found = regress(found, o.nms)
        if o.vote:
            found = soften(vote(found, o.vote), o.nms, o.threshold)
        return found.detections(self.classify.model.labels)

    def describe(self) -> str:
        """Return in one line what runs where."""
        o = self.options
        members = [member.describe() for member in self.members]
        after = ["boxes moved by regression"] if o.bbox else []
        if o.objectness and o.proposals != "ss":
            after.append(f"scores weighed by objectness to the power {o.objectness:g}")
        if self.whole is not None:
            after.append(f"scores weighed by {self.whole.model.name} of the whole image to the power {o.context:g}")
        if o.vote:
            after.append(f"boxes vote from IoU {o.vote:g}")
        return "; ".join([self.proposer.describe(), *members, *after])


def _model(name: str, crop_size: int) -> Model:
    """Return the model of a name; `crop_size` not 0 is that of all that name none themselves (NAME@SIZE)."""
    model = find_model(name)
    return replace(model, size=crop_size) if crop_size and not split_name(name).size else model
