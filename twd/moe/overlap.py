"""How long a pass takes that computes and reads experts. Pure."""


def overlapped(computing: float, reading: float) -> float:
    """The time of both together, in their unit.

    What is missing now is waited for. While the disk reads, it also reads ahead, which hides computing: the more, the
    larger its part of the time.
    """
    longer, shorter = max(computing, reading), min(computing, reading)
    return longer + shorter * computing / (computing + reading) if shorter > 0 else longer
