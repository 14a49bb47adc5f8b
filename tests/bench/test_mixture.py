"""The figures of a mixture's benchmark."""

from twd.bench.client import MeasuredAnswer
from twd.bench.mixture import experts_mib, run_of, run_of_replies
from twd.bench.product.http_client import Reply
from twd.wire.job import JobStats
from twd.wire.leases.base import StreamedExperts

MIB = 2**20


def answer(tokens: int, decode_ms: int, checked: int = 0, taken: int = 0) -> MeasuredAnswer:
    stats = JobStats(decode_ms=decode_ms, checked=checked, taken=taken)
    return MeasuredAnswer("file", list(range(tokens)), "text", [0.2, 0.3], stats)


def test_reads_and_hits_are_those_of_the_run() -> None:
    before = StreamedExperts(asked=100, hits=90, read_bytes=10 * MIB, memory_bytes=64 * MIB)
    after = StreamedExperts(asked=300, hits=240, read_bytes=52 * MIB, memory_bytes=64 * MIB)
    run = run_of("drafted", [answer(11, 500, 8, 6), answer(10, 450)], before, after)
    assert (run.answers, run.tokens, run.tok_s) == (2, 21, 20.0)
    assert (run.hits, run.read_mib, run.acceptance, run.first_ms) == (0.75, 2.0, 0.75, 200.0)
    assert experts_mib(after) == 64


def test_what_nobody_tells_is_left_open() -> None:
    run = run_of("plain", [answer(11, 500)], None, None)
    assert (run.hits, run.read_mib, run.acceptance) == (None, None, None)
    assert experts_mib(None) == 0
    assert run_of("plain", [], None, None).tok_s == 0.0


def test_a_server_is_timed_by_what_arrives() -> None:
    run = run_of_replies([Reply("q", 11, [100.0, 600.0]), Reply("q", 11, [300.0, 800.0])])
    assert (run.tok_s, run.first_ms, run.tokens) == (20.0, 300.0, 22)
