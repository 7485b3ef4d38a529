"""Seeds as a command takes them."""

__all__ = ["seeds_of"]


def seeds_of(text: str) -> list[int]:
    """Returns the seeds that a text names.

    Raises:
        ValueError: it is no number, and no range that goes upwards.

    >>> seeds_of("10..12"), seeds_of("7")
    ([10, 11, 12], [7])
    """
    first, _, last = text.partition("..")
    seeds = list(range(int(first), int(last or first) + 1))
    if not seeds:
        raise ValueError(f"seeds must be a number or a range that goes upwards, as 10..14, got '{text}'")
    return seeds
