"""A stand-in for a Qdrant server, for tests of what happens on the wire.

This is not Qdrant's server. It speaks the part of Qdrant's gRPC API that qvec needs, over qdrant-edge, which is
Qdrant's own engine in process: points, filters, quantization, rescoring and indexing are the engine's, while
collections, aliases, metadata, statuses and error codes are imitated here from Qdrant's documentation. What it proves
is that requests are well formed and that lost answers, overload and restarts are survived; what it says of a server's
results or speed proves nothing. The same tests run against a real server when QVEC_TEST_QDRANT_URL is set.

    with WireServer(tmp_path) as server:
        client = QdrantClient(host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False)
        server.fail("Upsert", times=3, code=grpc.StatusCode.RESOURCE_EXHAUSTED)

It speaks gRPC only: QdrantClient's own check of the version goes over REST, so it is switched off above. A method that
is not imitated answers UNIMPLEMENTED, as does an option that would be ignored.

The engine holds Python's interpreter lock while it works: one call is served at a time, and a client in the same
process stands still while an index is built. Set `server.optimizer_delay` where a test has to see a collection that is
not green yet.
"""

from .calls import Call
from .server import WireServer

__all__ = ["Call", "WireServer"]
