"""Predictions on a data set: one table, read from files or kept while a detector runs."""
