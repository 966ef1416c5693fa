"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567, table 1 and figures 5 to 7) with batch norm folded in.

Names, channels and padding are TF-Slim's (`inception_v3.py`), whose ImageNet weights ship with the project. Any
input from 75 px up works, since the last pooling is global; TF-Slim trained at 299 px.
"""

from __future__ import annotations

from detector.networks.layers import AvgPool, Branches, Conv, GlobalAvgPool, Layer, MaxPool, Members

MIN_SIZE = 75  # below it, the last grid reduction (Mixed_7a) has no full window left
FEATURES = 2048
CLASSES = 1000
SHARED = "Mixed_7b"  # the last layer that the networks of an ensemble have in common


def _stem() -> tuple[Layer, ...]:
    """Return the layers before the Inception modules: 299 x 299 x 3 -> 35 x 35 x 192."""
    return (
        Conv("Conv2d_1a_3x3", 3, 32, (3, 3), stride=2, padding="valid"),
        Conv("Conv2d_2a_3x3", 32, 32, (3, 3), padding="valid"),
        Conv("Conv2d_2b_3x3", 32, 64, (3, 3)),
        MaxPool(3, 2),
        Conv("Conv2d_3b_1x1", 64, 80),
        Conv("Conv2d_4a_3x3", 80, 192, (3, 3), padding="valid"),
        MaxPool(3, 2),
    )


def _module_35(name: str, inputs: int, pool: int) -> Branches:
    """Return a module of the 35 x 35 grid (figure 5; TF-Slim kept one 5x5 branch); `pool`: pool projection."""
    # TF-Slim spelled two layers of Mixed_5c otherwise; its checkpoints carry the names.
    reduce, wide = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if name == "Mixed_5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
    return Branches(
        name,
        (
            (Conv(f"{name}/Branch_0/Conv2d_0a_1x1", inputs, 64),),
            (
                Conv(f"{name}/Branch_1/{reduce}", inputs, 48),
                Conv(f"{name}/Branch_1/{wide}", 48, 64, (5, 5)),
            ),
            (
                Conv(f"{name}/Branch_2/Conv2d_0a_1x1", inputs, 64),
                Conv(f"{name}/Branch_2/Conv2d_0b_3x3", 64, 96, (3, 3)),
                Conv(f"{name}/Branch_2/Conv2d_0c_3x3", 96, 96, (3, 3)),
            ),
            (AvgPool(3), Conv(f"{name}/Branch_3/Conv2d_0b_1x1", inputs, pool)),
        ),
    )


def _reduction_17() -> Branches:
    """Return Mixed_6a: 35 x 35 x 288 -> 17 x 17 x 768 (figure 10)."""
    name = "Mixed_6a"
    return Branches(
        name,
        (
            (Conv(f"{name}/Branch_0/Conv2d_1a_1x1", 288, 384, (3, 3), stride=2, padding="valid"),),
            (
                Conv(f"{name}/Branch_1/Conv2d_0a_1x1", 288, 64),
                Conv(f"{name}/Branch_1/Conv2d_0b_3x3", 64, 96, (3, 3)),
                Conv(f"{name}/Branch_1/Conv2d_1a_1x1", 96, 96, (3, 3), stride=2, padding="valid"),
            ),
            (MaxPool(3, 2),),
        ),
    )


def _module_17(name: str, width: int) -> Branches:
    """Return a module of the 17 x 17 grid, 7x7 factorised into 1x7 and 7x1 (figure 6); `width`: inner channels."""
    return Branches(
        name,
        (
            (Conv(f"{name}/Branch_0/Conv2d_0a_1x1", 768, 192),),
            (
                Conv(f"{name}/Branch_1/Conv2d_0a_1x1", 768, width),
                Conv(f"{name}/Branch_1/Conv2d_0b_1x7", width, width, (1, 7)),
                Conv(f"{name}/Branch_1/Conv2d_0c_7x1", width, 192, (7, 1)),
            ),
            (
                Conv(f"{name}/Branch_2/Conv2d_0a_1x1", 768, width),
                Conv(f"{name}/Branch_2/Conv2d_0b_7x1", width, width, (7, 1)),
                Conv(f"{name}/Branch_2/Conv2d_0c_1x7", width, width, (1, 7)),
                Conv(f"{name}/Branch_2/Conv2d_0d_7x1", width, width, (7, 1)),
                Conv(f"{name}/Branch_2/Conv2d_0e_1x7", width, 192, (1, 7)),
            ),
            (AvgPool(3), Conv(f"{name}/Branch_3/Conv2d_0b_1x1", 768, 192)),
        ),
    )


def _reduction_8() -> Branches:
    """Return Mixed_7a: 17 x 17 x 768 -> 8 x 8 x 1280."""
    name = "Mixed_7a"
    return Branches(
        name,
        (
            (
                Conv(f"{name}/Branch_0/Conv2d_0a_1x1", 768, 192),
                Conv(f"{name}/Branch_0/Conv2d_1a_3x3", 192, 320, (3, 3), stride=2, padding="valid"),
            ),
            (
                Conv(f"{name}/Branch_1/Conv2d_0a_1x1", 768, 192),
                Conv(f"{name}/Branch_1/Conv2d_0b_1x7", 192, 192, (1, 7)),
                Conv(f"{name}/Branch_1/Conv2d_0c_7x1", 192, 192, (7, 1)),
                Conv(f"{name}/Branch_1/Conv2d_1a_3x3", 192, 192, (3, 3), stride=2, padding="valid"),
            ),
            (MaxPool(3, 2),),
        ),
    )


def _module_8(name: str, inputs: int, prefix: str = "") -> Branches:
    """Return a module of the 8 x 8 grid with its expanded filter bank (figure 7); names begin with `prefix`."""
    second = "Conv2d_0b_3x1" if name == "Mixed_7b" else "Conv2d_0c_3x1"  # TF-Slim's names
    name = prefix + name
    return Branches(
        name,
        (
            (Conv(f"{name}/Branch_0/Conv2d_0a_1x1", inputs, 320),),
            (
                Conv(f"{name}/Branch_1/Conv2d_0a_1x1", inputs, 384),
                Branches(
                    f"{name}/Branch_1",
                    (
                        (Conv(f"{name}/Branch_1/Conv2d_0b_1x3", 384, 384, (1, 3)),),
                        (Conv(f"{name}/Branch_1/{second}", 384, 384, (3, 1)),),
                    ),
                ),
            ),
            (
                Conv(f"{name}/Branch_2/Conv2d_0a_1x1", inputs, 448),
                Conv(f"{name}/Branch_2/Conv2d_0b_3x3", 448, 384, (3, 3)),
                Branches(
                    f"{name}/Branch_2",
                    (
                        (Conv(f"{name}/Branch_2/Conv2d_0c_1x3", 384, 384, (1, 3)),),
                        (Conv(f"{name}/Branch_2/Conv2d_0d_3x1", 384, 384, (3, 1)),),
                    ),
                ),
            ),
            (AvgPool(3), Conv(f"{name}/Branch_3/Conv2d_0b_1x1", inputs, 192)),
        ),
    )


def inception_v3(classes: int = CLASSES, members: int = 1, member: int = -1) -> tuple[Layer, ...]:
    """Return the network with `classes` outputs.

    members: above 1, an ensemble of so many that share the layers up to `SHARED`; the layers behind are called
    "0/Mixed_7c" and so on. member: only this one of them, -1 for all. Raises: ValueError where it is none of them.
    """
    if members < 1 or not -1 <= member < members:
        raise ValueError(f"an ensemble has members 0 and up, not {member} of {members}")
    shared, ends = _shared(), range(members) if member < 0 else [member]
    if members == 1:
        return (*shared, *_end(classes, ""))
    branches = tuple(_end(classes, f"{number}/") for number in ends)
    return (*shared, Members(branches)) if len(branches) > 1 else (*shared, *branches[0])


def _shared() -> tuple[Layer, ...]:
    """Return the layers up to `SHARED`."""
    return (
        *_stem(),
        _module_35("Mixed_5b", 192, 32),
        _module_35("Mixed_5c", 256, 64),
        _module_35("Mixed_5d", 288, 64),
        _reduction_17(),
        _module_17("Mixed_6b", 128),
        _module_17("Mixed_6c", 160),
        _module_17("Mixed_6d", 160),
        _module_17("Mixed_6e", 192),
        _reduction_8(),
        _module_8("Mixed_7b", 1280),
    )


def _end(classes: int, prefix: str) -> tuple[Layer, ...]:
    """Return the layers behind `SHARED`, their names after `prefix`."""
    return (
        _module_8("Mixed_7c", 2048, prefix),
        GlobalAvgPool(),
        Conv(f"{prefix}Logits/Conv2d_1c_1x1", FEATURES, classes, relu=False),
    )


INCEPTION_V3 = inception_v3()
