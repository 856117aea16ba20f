"""Numbers in words for people: durations, and nouns with their count."""


def duration(seconds: float) -> str:
    """89 -> 89 s; 5,000 -> 83 min; 7,000 -> 1 h 57 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{n} {noun}{'s' * (n != 1)}"
