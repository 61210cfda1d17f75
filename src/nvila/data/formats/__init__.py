"""Data sets of any common format and container as one kind of Sample.

Formats say what a record's keys mean (`FORMATS`); containers say where records lie (JSON, JSON lines, Parquet, Arrow,
tar shards). Any format may lie in any container. Leaves out mixing, filtering and tokens.
"""

from __future__ import annotations

from nvila.data.formats.base import Format, ProblemKind, RecordError
from nvila.data.formats.recognise import FORMATS
from nvila.data.formats.sources import FileSource, SampleSource, open_source, to_sample

__all__ = ["FORMATS", "FileSource", "Format", "ProblemKind", "RecordError", "SampleSource", "open_source", "to_sample"]
