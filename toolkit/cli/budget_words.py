"""Text about budgets, shared by `gstk plan` and `gstk infer`."""

from gstk.session.deadline import Budget

__all__ = ["call_line", "compromise_lines"]


def call_line(budget: Budget, objects: int, masks_s: float, rest: str) -> str:
    """The calculation of the seconds of a call, such as `15.0 s = 90 s × 1 object / 6 calls`.

    Args:
        budget: the time for one object in all calls together.
        objects: number of objects to segment.
        masks_s: seconds that remain for the masks.
        rest: text that says what the other seconds are used for.
    """
    call_s = budget.seconds * objects / budget.calls
    return (
        f"this call  {call_s:.1f} s = {budget.seconds:g} s × {_count(objects, 'object')} / "
        f"{_count(budget.calls, 'call')}: {max(0.0, call_s - masks_s):.1f} s to {rest}, {masks_s:.1f} s for the masks"
    )


def compromise_lines(compromises: tuple[str, ...]) -> list[str]:
    """One line of text for each compromise."""
    return [f"skipped to stay in time: {compromise}" for compromise in compromises]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
