"""Show Selective Search step by step on one picture: segmentations at both scales, levels of a hierarchy, the boxes.

python scripts/selective_search_picture.py docs/selective_search.jpg
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from detector.drawing import colour_of, contact_sheet, save_picture
from detector.samples import sample_path
from proposals.images import Image, read_image
from proposals.selective.frame import to_frame
from proposals.selective.search import Hierarchy, selective_search

LEVELS = (60, 20, 6)  # regions that are left


def coloured(frame: Image, labels: npt.NDArray[np.integer]) -> Image:
    """Return the frame with every region in its mean colour and its border drawn."""
    flat = labels.ravel()
    count = np.bincount(flat)
    used = count > 0
    means = np.zeros((len(count), 3))
    for channel in range(3):
        sums = np.bincount(flat, weights=frame[:, :, channel].ravel())
        means[used, channel] = sums[used] / count[used]
    picture = means[labels].astype(np.uint8)
    border = (labels != np.roll(labels, 1, axis=0)) | (labels != np.roll(labels, 1, axis=1))
    picture[border] = 255
    return picture


def level(hierarchy: Hierarchy, regions: int) -> npt.NDArray[np.integer]:
    """Return the label map when `regions` regions are left."""
    last = len(hierarchy.parents) - regions  # the first region that is not merged yet
    owner = np.arange(len(hierarchy.parents))
    for region in range(last - 1, -1, -1):
        parent = hierarchy.parents[region]
        owner[region] = owner[parent] if parent <= last else region
    return owner[hierarchy.labels]


frame = to_frame(read_image(sample_path("horses.jpg")))
images, titles = [frame], ["the picture"]
for scale in (1, 2):
    found, hierarchies = selective_search(frame, superpixel_scale=scale, return_regions=True)
    first = hierarchies[0]
    images.append(coloured(frame, first.labels))
    titles.append(f"HSV, k = {first.k}: {first.labels.max() + 1} superpixels")
for regions in LEVELS:
    images.append(coloured(frame, level(first, regions)))
    titles.append(f"merged to {regions} regions")
for count in (50, len(found)):
    picture = frame.copy()
    for i, (x1, y1, x2, y2) in enumerate(found.boxes[:count].astype(int).tolist()):
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour_of(i % 200 + 1), 1)
    images.append(picture)
    titles.append(f"the {count} best-ranked boxes" if count < len(found) else f"all {count} boxes")
save_picture(Path(sys.argv[1]), contact_sheet(images, titles, columns=4, width=1600))
