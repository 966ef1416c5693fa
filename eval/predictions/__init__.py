"""Predictions on a data set: one table, read from files or kept while a detector runs."""

FORMATS = ("ilsvrc", "coco", "csv", "parquet", "voc", "json")  # of files that `eval.predictions.readers` reads
