"""The command line. Everything here is imported only when it is needed: `twd --help` must be quick."""


def main() -> None:
    """The `twd` program."""
    import sys

    _run(sys.argv[1:])


def agent_main() -> None:
    """The `twd-agent` program: `twd run agent`."""
    import sys

    _run(["run", "agent", *sys.argv[1:]])


def _run(arguments: list[str]) -> None:
    import gc
    import signal
    import sys

    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so behind `nohup`
    if interruptible:  # while nothing runs yet, Ctrl-C just ends it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until all is imported: nothing is garbage then, and to look for it is a tenth of a start
    from twd.lean_import import without

    with without("typing_extensions"):  # msgspec looks for it and does without: one part in twenty of a start
        import msgspec  # noqa: F401

    from twd.cli.app import run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run(arguments, own_process=True)
    if interruptible:  # and so it does when all is done
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
