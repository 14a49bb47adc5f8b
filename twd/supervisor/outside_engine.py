"""llama-server as the engine of this installation's models: its command lines and addresses. No I/O here."""

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from twd.kit.errors import CommandError
from twd.kit.exit_codes import ExitCode
from twd.net.addresses import EVERYWHERE, is_loopback
from twd.process.compute import gpu_layers
from twd.settings.model import BackendConfig, ModelConfig, Settings, WorkerConfig

ENGINE: Final = "llama-server"
KEY_VARIABLE: Final = "LLAMA_API_KEY"
EVERY_LAYER: Final = 999


def outside(settings: Settings) -> bool:
    """Whether llama-server runs the models, instead of twd's own engine."""
    return settings.pool.engine == ENGINE


def port_of(settings: Settings, name: str) -> int:
    """Return a model's port: the first model has the one of the settings, each further one the next."""
    return settings.pool.llama_server.port + list(settings.models).index(name)


def url_of(settings: Settings, name: str) -> str:
    """Return the URL under which twd reaches a model's llama-server."""
    host = settings.pool.llama_server.host
    reached = "127.0.0.1" if host in EVERYWHERE else host
    return f"http://{reached}:{port_of(settings, name)}"


def key_of(settings: Settings) -> str:
    """Return llama-server's API key: the edge's token where llama-server can be reached from other machines, else
    empty."""
    edge = settings.edge
    if is_loopback(settings.pool.llama_server.host) or (edge.allow_unauthenticated and not edge.token):
        return ""
    if not edge.token:
        text = "pool.llama_server.host is not loopback, so llama-server needs a key: set edge.token"
        raise CommandError(ExitCode.CONFIG, text)
    return edge.token


def with_backend(settings: Settings, name: str) -> Settings:
    """Return the settings with a model's llama-server as a backend instead of the model."""
    backend = BackendConfig(url=url_of(settings, name), kind="llamacpp", api_key=key_of(settings))
    models = {key: model for key, model in settings.models.items() if key != name}
    return msgspec.structs.replace(settings, models=models, backends={**settings.backends, name: backend})


def command_line(settings: Settings, name: str) -> tuple[str, ...]:
    """Return llama-server's command line for a model; `engine.extra_args` come last, so they override the rest."""
    model, server = settings.models[name], settings.pool.llama_server
    options = [
        *("--model", model.path, "--alias", name),
        *("--host", server.host, "--port", str(port_of(settings, name))),
        *("--ctx-size", str(model.ctx_size * model.parallel), "--parallel", str(model.parallel)),
        *("--n-gpu-layers", str(gpu_layers(settings, model, EVERY_LAYER))),
        *("--flash-attn", model.flash_attn, "--predict", str(model.predict)),
        *_optional(model),
        *_pool(settings),
        *settings.engine.extra_args,
    ]
    return (os.path.expanduser(settings.agent.binaries.llama_server), *options)


def _optional(model: ModelConfig) -> Iterator[str]:
    if model.cache_type_k != "auto":
        yield from ("--cache-type-k", model.cache_type_k)
    if model.cache_type_v != "auto":
        yield from ("--cache-type-v", model.cache_type_v)
    if model.threads != "auto":
        yield from ("--threads", str(model.threads))
    if model.mmap == "off":
        yield "--no-mmap"
    if model.chat_template:
        yield from ("--chat-template-file", model.chat_template)


def _pool(settings: Settings) -> Iterator[str]:
    """Yield the options for RPC workers and their shares. llama.cpp counts the workers' devices first, then its own."""
    pool = settings.pool
    addresses = [address for worker in pool.workers for address in addresses_of(worker)]
    if addresses:
        yield from ("--rpc", ",".join(addresses))
    if split := tensor_split(settings):
        yield from ("--tensor-split", ",".join(f"{share:g}" for share in split))


def addresses_of(worker: WorkerConfig) -> list[str]:
    """Return the addresses of a machine's RPC workers; devices of one process share its port."""
    ports = [gpu.rpc_port or worker.rpc_port for gpu in worker.gpus] or [worker.rpc_port]
    return [f"{worker.host}:{port}" for port in dict.fromkeys(ports)]


def tensor_split(settings: Settings) -> tuple[float, ...]:
    """Return the devices' shares in llama.cpp's order; empty: llama-server decides by free memory."""
    pool = settings.pool
    away = sum(len(worker.gpus) or 1 for worker in pool.workers)
    if pool.split != "auto":
        here = len(pool.split) - away
        if here < 0:
            text = f"pool.split has {len(pool.split)} shares for {away} devices of workers; give each device one"
            raise CommandError(ExitCode.CONFIG, text)
        return (*pool.split[here:], *pool.split[:here])
    known = [gpu.vram_gb for worker in pool.workers for gpu in worker.gpus]
    if not pool.workers or len(known) < away:
        return ()
    sizes = [*known, *(gpu.vram_gb for gpu in pool.gpus)]
    return tuple(round(size / sum(sizes), 2) for size in sizes)
