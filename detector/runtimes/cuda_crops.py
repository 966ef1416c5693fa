"""R-CNN's warp on the device: the picture goes up once, and its crops are made there in few batched operations.

The rectangles are those of `detector.warp.warp_geometry`; the pixels are OpenCV's bilinear ones within one grey
level (OpenCV rounds its weights to 1/2048). What is read beyond an edge is the edge of the source rectangle, not of
the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from detector.warp import CONTEXT, warp_geometry
from proposals.boxes import Boxes

CHUNK = 1 << 23  # output pixels at a time; the arrays on the way to them take about 50 bytes each


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return a copy of `array` on `device`, through pinned memory and without waiting where that is CUDA."""
    whole = np.ascontiguousarray(array)
    values = torch.from_numpy(whole if whole.flags.writeable else whole.copy())  # torch warns of read-only arrays
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device, copy=True)


@torch.inference_mode()
def warp_on_device(
    picture: Tensor, boxes: Boxes, size: int, fill: tuple[int, int, int], context: int = CONTEXT
) -> Tensor:
    """Return the crops of `boxes` as `detector.warp.warp` makes them: uint8 [N, size, size, 3] beside `picture`.

    picture: uint8 RGB [H, W, 3] on any device; boxes: [N, 4], half-open pixels of the picture; fill: the colour where
    the context leaves the picture. Beyond the crops it takes some 400 MB at most.
    """
    height, width = picture.shape[:2]
    geometry = np.stack(warp_geometry(boxes, (width, height), size, context), axis=1)  # [N, 4, 2]: what, then x and y
    rectangles = upload(geometry, picture.device)
    planes = picture.permute(2, 0, 1)[None].to(torch.float32)
    colour = torch.tensor(fill, dtype=torch.float32, device=picture.device)[:, None, None]
    crops = torch.empty((len(boxes), size, size, 3), dtype=torch.uint8, device=picture.device)
    step = max(1, CHUNK // size**2)
    for start in range(0, len(boxes), step):
        crops[start : start + step] = _sampled(planes, rectangles[start : start + step], size, colour)
    return crops


def _sampled(planes: Tensor, rectangles: Tensor, size: int, colour: Tensor) -> Tensor:
    """Return the crops of some rectangles [n, 4, 2] of `planes` [1, 3, H, W]: float32 [n, size, size, 3], whole."""
    first, last, start, extent = rectangles.unbind(1)  # each [n, 2]: x, y
    position = torch.arange(size, device=planes.device) - start[:, :, None]  # [n, 2, size], from the crop's corner
    inside = (position >= 0) & (position < extent[:, :, None])
    zoom = (last - first + 1) / extent.clamp(min=1).double()
    source = (position + 0.5) * zoom[:, :, None] - 0.5  # pixel centres lie at .5 (cv2.INTER_LINEAR)
    source = first[:, :, None] + source.clamp(min=0).minimum((last - first)[:, :, None])
    limit = torch.tensor([planes.shape[3], planes.shape[2]], device=planes.device)[None, :, None]
    x, y = ((2 * source + 1) / limit - 1).float().unbind(1)  # grid_sample's -1..1; each [n, size]
    count = len(rectangles)
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    pixels = grid_sample(planes.expand(count, -1, -1, -1), grid, "bilinear", "border", align_corners=False)
    seen = inside[:, None, 0, None, :] & inside[:, None, 1, :, None]  # [n, 1, size, size]
    return torch.where(seen, (pixels + 0.5).floor(), colour).permute(0, 2, 3, 1)
