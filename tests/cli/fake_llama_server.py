"""A program with llama-server's command line: it loads for a while, then speaks like the real one."""

import argparse
import asyncio
import sys

from tests.backends.fakes.llama_server import FakeLlamaServer

LOADING_S = 0.5
FLAGS = (
    *("--model", "--alias", "--ctx-size", "--parallel", "--n-gpu-layers", "--flash-attn", "--predict", "--rpc"),
    *("--tensor-split", "--cache-type-k", "--cache-type-v", "--threads", "--chat-template-file"),
)


async def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for flag in FLAGS:
        parser.add_argument(flag)
    parser.add_argument("--no-mmap", action="store_true")
    told = parser.parse_args()
    if told.model.endswith("missing.gguf"):
        sys.exit(f"error: failed to load model '{told.model}'")
    server = FakeLlamaServer()
    server.models, server.loading, server.port = [told.alias], True, told.port
    await server.start()
    await asyncio.sleep(LOADING_S)
    server.loading = False
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
