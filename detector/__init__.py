"""The GoogLeNet R-CNN detector: propose, crop, classify, suppress."""

__version__ = "0.1.0"
