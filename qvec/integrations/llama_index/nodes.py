"""Nodes as rows, and rows as nodes."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from qvec.results import Hit


def text_of(node: BaseNode) -> str:
    """What a node's row has as its document."""
    return node.get_content(metadata_mode=MetadataMode.NONE)


def metadata_of(node: BaseNode) -> dict[str, Any]:
    """What a node's row has as metadata: the node's own, and beside it what LlamaIndex makes the node of again."""
    return node_to_metadata_dict(node, remove_text=True, flat_metadata=False)


def node_of(hit: Hit) -> BaseNode:
    """The node of a row; of a row that LlamaIndex did not write, a text with its metadata."""
    metadata = hit.metadata or {}
    if "_node_content" in metadata:
        return metadata_dict_to_node(metadata, text=hit.document)
    return TextNode(id_=str(hit.id), text=hit.document or "", metadata=metadata)
