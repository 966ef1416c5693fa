"""Slow and literal readings of the protocols, to hold the fast ones against; plain Python, 1-based inclusive pixels."""

from __future__ import annotations

from typing import Any

Box = tuple[float, float, float, float]


def ilsvrc(
    truth: list[tuple[int, int, Box]],  # picture number, class, box
    found: list[tuple[int, int, float, Box]],  # picture number, class, confidence, box
    blacklist: set[tuple[int, int]],
    classes: int,
    iou: float = 0.5,
) -> list[float]:
    """Return the AP of each class as eval_detection.m goes about it: picture by picture, then class by class."""
    pictures = sorted({t[0] for t in truth} | {f[0] for f in found})
    confidences: list[float] = []
    labels: list[int] = []
    true: list[int] = []
    for picture in pictures:
        objects = [(c, box) for p, c, box in truth if p == picture and (picture, c) not in blacklist]
        detected = [False] * len(objects)
        own = [(c, s, box) for p, c, s, box in found if p == picture and (picture, c) not in blacklist]
        own.sort(key=lambda d: -d[1])  # stable, as Matlab's sort
        for label, confidence, b in own:
            best, best_overlap = -1, float("-inf")
            for k, (c, g) in enumerate(objects):
                if c != label or detected[k]:
                    continue
                w = min(b[2], g[2]) - max(b[0], g[0]) + 1
                h = min(b[3], g[3]) - max(b[1], g[1]) + 1
                if w > 0 and h > 0:
                    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
                    gw, gh = g[2] - g[0] + 1, g[3] - g[1] + 1
                    overlap = w * h / (area_b + gw * gh - w * h)
                    threshold = min(iou, gw * gh / ((gw + 10) * (gh + 10)))
                    if overlap >= threshold and overlap > best_overlap:
                        best, best_overlap = k, overlap
            if best >= 0:
                detected[best] = True
            confidences.append(confidence)
            labels.append(label)
            true.append(int(best >= 0))
    result = []
    for label in range(1, classes + 1):
        positives = sum(c == label and (p, c) not in blacklist for p, c, _ in truth)
        rows = [(s, t) for s, c, t in zip(confidences, labels, true, strict=True) if c == label]
        rows.sort(key=lambda r: -r[0])
        result.append(all_points([t for _, t in rows], positives))
    return result


def voc(
    truth: list[tuple[int, int, Box, bool]],  # ..., difficult
    found: list[tuple[int, int, float, Box]],
    classes: int,
    year: int,
    threshold: float = 0.5,
) -> list[float]:
    """Return the AP of each class as VOCevaldet.m goes about it: all predictions of a class in one falling order."""
    result = []
    for label in range(1, classes + 1):
        objects = [(p, box, difficult) for p, c, box, difficult in truth if c == label]
        detected = [False] * len(objects)
        rows = sorted((f for f in found if f[1] == label), key=lambda f: -f[2])
        true, false = [], []
        for picture, _, _, b in rows:
            best, best_overlap = -1, float("-inf")
            for k, (p, g, _difficult) in enumerate(objects):
                if p != picture:
                    continue
                w = min(b[2], g[2]) - max(b[0], g[0]) + 1
                h = min(b[3], g[3]) - max(b[1], g[1]) + 1
                if w > 0 and h > 0:
                    area = (b[2] - b[0] + 1) * (b[3] - b[1] + 1) + (g[2] - g[0] + 1) * (g[3] - g[1] + 1)
                    overlap = w * h / (area - w * h)
                    if overlap > best_overlap:
                        best, best_overlap = k, overlap
            t = f = 0
            if best_overlap >= threshold:
                if not objects[best][2]:
                    t, f = int(not detected[best]), int(detected[best])
                    detected[best] = True
            else:
                f = 1
            true.append(t)
            false.append(f)
        positives = sum(not difficult for _, _, difficult in objects)
        outcome = [t for t, f in zip(true, false, strict=True) if t or f]
        result.append(all_points(outcome, positives) if year == 2010 else eleven_points(outcome, positives))
    return result


def curve(true: list[int], positives: int) -> list[tuple[float, float, int]]:
    """Return recall, precision and the number of hits after each prediction."""
    hits, points = 0, []
    for i, t in enumerate(true, start=1):
        hits += t
        points.append((hits / positives, hits / i, hits))
    return points


def all_points(true: list[int], positives: int) -> float:
    """Return the area under the envelope, as VOCap.m sums it over the changes of recall."""
    if not positives:
        return float("nan")
    points = curve(true, positives)
    recalls = [0.0, *(r for r, _, _ in points), 1.0]
    precisions = [0.0, *(p for _, p, _ in points), 0.0]
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    changes = [i + 1 for i in range(len(recalls) - 1) if recalls[i + 1] != recalls[i]]
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in changes)


def eleven_points(true: list[int], positives: int) -> float:
    """Return the mean of the best precision at recall k/10 or more, the comparison in whole numbers."""
    if not positives:
        return float("nan")
    points = curve(true, positives)
    best: Any = [max((p for _, p, hits in points if 10 * hits >= k * positives), default=0.0) for k in range(11)]
    return sum(best) / 11
