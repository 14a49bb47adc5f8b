"""Numbers of things as people say them."""


def count(number: int, one: str, many: str = "") -> str:
    """`1 model`, `2 models`; `many` where it is not the one with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
