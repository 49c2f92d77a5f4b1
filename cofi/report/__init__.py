"""Figures, the HTML page and the summary table of a run, from the files of its directory."""

from __future__ import annotations

from cofi.report.html import write_report
from cofi.report.tables import summary_table

__all__ = ["summary_table", "write_report"]
