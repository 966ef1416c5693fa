"""The HTML report of an evaluation: one file that opens anywhere, with pictures, charts and tables in it."""

from eval.report.page import write_report

__all__ = ["write_report"]
