"""The values that the options of a collection take; SQL takes them from here.

`sql_script` imports this module on servers that have Python and nothing else, so it needs the standard library only.
"""

from __future__ import annotations

from typing import Literal

IdType = Literal["bigint", "text"]
Rescore = Literal["int10", "int8", "int4", "binary", "float16", "float32"]
Prefilter = Literal["ternary", "binary", "levels4", "levels5", "levels6", "levels8", "learned"]
