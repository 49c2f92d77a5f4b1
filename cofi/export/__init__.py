"""The command `python -m cofi.export` and the formats it writes."""

from cofi.export.formats import FORMATS, Format
from cofi.export.onnx import write_onnx
from cofi.export.source import Source, read_source

__all__ = ["FORMATS", "Format", "Source", "read_source", "write_onnx"]
