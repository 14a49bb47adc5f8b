"""What other services are told about a model of another program."""

import hashlib

from msgspec.structs import replace

from twd.backends.clients.base import Backend, Capabilities
from twd.wire.base import ModelId
from twd.wire.model import ModelFacts, VocabFingerprint

UNKNOWN_VOCABULARY = 2**31 - 1


def passed_through(can: Capabilities) -> str:
    """How a relay serves a model, and why, as text."""
    if not can.can_verify:
        return can.use
    return f"{can.kind} {can.model!r}: passed through as it comes, though it could check guesses"


def fingerprint(can: Capabilities) -> VocabFingerprint:
    """What is known of a server's vocabulary; without a hash, because the server does not list its tokens."""
    return VocabFingerprint(
        hash="",
        tokens=can.vocabulary,
        architecture=can.architecture,
        template_hash=hashlib.sha256(can.template.encode()).hexdigest()[:16] if can.template else "",
    )


def relayed_facts(name: ModelId, backend: Backend, can: Capabilities) -> ModelFacts:
    """The facts of a relayed model."""
    return ModelFacts(
        model=name,
        file=place(backend),
        architecture=can.architecture,
        quantization=can.quantization,
        parameters=can.parameters,
        size_bytes=can.size_bytes,
        ctx_size=can.context,
        parallel=can.slots,
        vocab=fingerprint(can),
        backend=can.kind,
        can_verify=False,
        can_rollback=False,
        chat_template=can.chat,
        note=passed_through(can),
    )


def verified_facts(name: ModelId, backend: Backend, can: Capabilities, ctx_size: int, slots: int) -> ModelFacts:
    """The facts of a model that verifies drafts on its server."""
    vocab = VocabFingerprint(
        hash=f"{can.kind}:{can.model}", tokens=can.vocabulary or UNKNOWN_VOCABULARY, architecture=can.architecture
    )
    return replace(
        relayed_facts(name, backend, can),
        ctx_size=ctx_size,
        parallel=slots,
        vocab=vocab,
        can_verify=True,
        can_rollback=True,
        chat_template=can.renders,
        note=f"{can.use}; texts that are not greedy are passed through",
    )


def place(backend: Backend) -> str:
    """The server's address without secrets."""
    return f"{backend.upstream.base.scheme}://{backend.upstream.name}#{backend.model}"
