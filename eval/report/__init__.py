"""The HTML report of an evaluation: one file that opens anywhere, with pictures, charts and tables in it."""

from eval.report.content import RecallCurves, ReportContent
from eval.report.html import write_report

__all__ = ["RecallCurves", "ReportContent", "write_report"]
