"""Types of settings that declare a range: `batch_size: Count = 64`.

configurator.py checks and prints the ranges; `allowed_range` reads them.
"""

import math
import typing
from dataclasses import dataclass
from typing import Annotated, NamedTuple


@dataclass(frozen=True)
class Range:
    """The numbers from low to high that a setting accepts, without them where `strict`."""

    low: float
    high: float = math.inf
    strict_low: bool = False
    strict_high: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.strict_low else x >= self.low
        return above and (x < self.high if self.strict_high else x <= self.high)

    def __str__(self) -> str:
        low = f"{'>' if self.strict_low else '>='} {self.low:g}"
        if self.high == math.inf:
            return low
        high = "2^63" if self.high == 2**63 else f"{self.high:g}"
        return f"{low} and {'<' if self.strict_high else '<='} {high}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
PerDoubling = Annotated[int, Range(0, 64)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, strict_low=True)]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, strict_low=True)]
FractionBelow1 = Annotated[float, Range(0, 1, strict_high=True)]
OpenFraction = Annotated[float, Range(0, 1, strict_low=True, strict_high=True)]
Seed = Annotated[int, Range(0, 2**63, strict_high=True)]
Name = Annotated[str, Range(1)]  # of its length: a name is not empty


class Declared(NamedTuple):
    """What the type of a setting declares."""

    type: type
    range: Range  # of a text: of its length


def allowed_range(kind) -> Declared | None:
    """The range that a field's type declares: `Count | None` gives (int, Range(1))."""
    for option in (kind, *typing.get_args(kind)):
        if typing.get_origin(option) is Annotated:
            return Declared(option.__origin__, option.__metadata__[0])
    return None
