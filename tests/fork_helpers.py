"""Helper for tests of forks: use a database before, during and after a fork."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import asyncio, os, sys
import numpy as np
import qvec
url, kind = sys.argv[1:]

def outcome(work):
    try:
        return work()
    except qvec.QvecError as error:
        return f"{type(error).__name__}: {error}"

async def in_loop(db):
    return await db.has_collection("docs")

async def opened():
    return await qvec.connect_async(url)

def used(db):
    return outcome(lambda: db.has_collection("docs") if kind == "sync" else asyncio.run(in_loop(db)))

if kind == "sync":
    db = qvec.connect(url)
    print("parent", used(db), flush=True)
else:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    db = loop.run_until_complete(opened())
    print("parent", loop.run_until_complete(in_loop(db)), flush=True)
if os.fork() == 0:
    print("child", used(db), flush=True)
    os._exit(0)
os.wait()
print("parent", used(db) if kind == "sync" else loop.run_until_complete(in_loop(db)), flush=True)
"""


def use_across_fork(url: str, kind: str) -> list[str]:
    """Open a database with the collection "docs", fork, and use it in the parent, the child and the parent again.

    Return the three lines that they print. Kind "sync" opens the database by `connect`, "async" by `connect_async`.
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _PROGRAM, url, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("parent", "child"))]  # gRPC prints as well
