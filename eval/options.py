"""What an evaluation depends on, read from one TOML file."""

from __future__ import annotations

from dataclasses import dataclass

from eval.protocols import PROTOCOLS

AUTO = "auto"


@dataclass(frozen=True)
class EvalOptions:
    """The data set and the protocol (configs/eval.toml holds the defaults)."""

    data: str = ""  # empty: the bundled samples
    format: str = AUTO
    split: str = "val"
    protocol: str = AUTO
    resamples: int = 1000  # bootstrap; 0: no intervals
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in (AUTO, *PROTOCOLS):
            raise ValueError(f"protocol must be one of auto, {', '.join(PROTOCOLS)}, got '{self.protocol}'")
        if self.resamples < 0:
            raise ValueError(f"resamples must not be negative, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
