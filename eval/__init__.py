"""Evaluation of detections and proposals."""
