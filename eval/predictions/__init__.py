"""Predictions on a data set: one table, read from files or kept while a detector runs."""

FORMATS = ("ilsvrc", "coco", "csv", "parquet", "voc", "json")  # of files that `eval.predictions.readers` reads
BY = ("auto", "name", "number")  # what a whole number for a picture is: a file's name in digits, the data set's number
