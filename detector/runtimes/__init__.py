"""Runtimes: `uint8 NHWC crops -> float32 scores`, by OpenVINO or by torch."""
