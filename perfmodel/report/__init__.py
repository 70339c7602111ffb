"""Reports: figures of result documents, and one self-contained page of each."""

from perfmodel.report import figures
from perfmodel.report.documents import KINDS, read_document
from perfmodel.report.gallery import figure
from perfmodel.report.page import render_report

__all__ = ["KINDS", "figure", "figures", "read_document", "render_report"]
