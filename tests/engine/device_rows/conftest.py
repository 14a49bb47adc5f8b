"""The native code for the tests of logits that stay on a device."""

from tests.engine.steps.conftest import loop, loop_library

__all__ = ["loop", "loop_library"]
