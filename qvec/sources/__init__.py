"""Sources of vectors and texts: files, folders and pipes, read as a stream of batches in bounded memory.

`open_source` is the way in. Every source can be read from any row on, sampled uniformly, and asked for the
place of a row and for a fingerprint of its content.
"""

from qvec.sources.base import Batch, Columns, Form, IdType, RejectedRow, Source
from qvec.sources.formats import open_source

__all__ = ["Batch", "Columns", "Form", "IdType", "RejectedRow", "Source", "open_source"]
