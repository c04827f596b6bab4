"""What a comparison looks like: a page for people, a comment for a pull request, rows for a spreadsheet."""

from toolkit.report.comment import markdown
from toolkit.report.page import page, write_report
from toolkit.report.spreadsheet import COLUMNS, csv_rows, write_csv

__all__ = ["COLUMNS", "csv_rows", "markdown", "page", "write_csv", "write_report"]
