"""The command line. Everything here is imported only when it is needed: `twd --help` must be quick."""


def main() -> None:
    """The `twd` program."""
    import sys

    from twd.cli.app import run

    sys.exit(run(sys.argv[1:]))


def agent_main() -> None:
    """The `twd-agent` program: `twd run agent`."""
    import sys

    from twd.cli.app import run

    sys.exit(run(["run", "agent", *sys.argv[1:]]))
