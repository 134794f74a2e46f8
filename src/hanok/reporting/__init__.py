"""Progress, tables and report pages; beside artefacts, below everything."""

from hanok.reporting.console import log, progress, table
from hanok.reporting.report import Report, put_notice

__all__ = ["Report", "log", "progress", "put_notice", "table"]
