"""Sources of vectors and texts: files, folders and pipes, read as a stream of batches in bounded memory.

`open_source` opens one. Every source can be read from any row on and sampled uniformly; it tells where a row is found
and a fingerprint of its content.
CONTRIBUTING.md says how to add a format.
"""

from qvec.arrays import Form
from qvec.sources.base import Batch, Columns, IdType, RejectedRow, Source
from qvec.sources.formats import open_source

__all__ = ["Batch", "Columns", "Form", "IdType", "RejectedRow", "Source", "open_source"]
