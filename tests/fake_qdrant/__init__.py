"""A fake Qdrant server, for tests of requests, lost responses, overload and restarts.

It serves the part of Qdrant's gRPC API that qvec needs from qdrant-edge, Qdrant's own engine in process. The engine
does points, filters, quantization, rescoring and indexing; collections, aliases, metadata, statuses and error codes
are imitated here from Qdrant's documentation. Tests on it show that requests are well formed and that the client
survives faults; they show nothing about the results or the speed of a real server. The same tests run on a real
server when QVEC_TEST_QDRANT_URL is set.

    with FakeQdrantServer(tmp_path) as server:
        client = QdrantClient(host="127.0.0.1", grpc_port=server.port, prefer_grpc=True, check_compatibility=False)
        server.fail("Upsert", times=3, code=grpc.StatusCode.RESOURCE_EXHAUSTED)

It serves gRPC only, so the example turns off QdrantClient's version check, which uses REST. A method that is not
imitated answers UNIMPLEMENTED, as does an option that would be ignored.

The engine holds Python's interpreter lock while it works: the server handles one call at a time, and a client in the
same process blocks while an index is built. Set `server.optimizer_delay` if a test must see a collection that is
not green yet.
"""

from .fake_server import FakeQdrantServer
from .interceptor import RecordedCall

__all__ = ["FakeQdrantServer", "RecordedCall"]
