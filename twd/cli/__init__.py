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
    import sys

    gc.disable()  # until all is imported: nothing is garbage then, and to look for it is a tenth of a start
    from twd.lean_import import without

    with without("typing_extensions"):  # msgspec looks for it and does without: one part in twenty of a start
        import msgspec  # noqa: F401

    from twd.cli.app import run

    sys.exit(run(arguments, own_process=True))
