"""Types of settings that are numbers, with bounds: they are checked where a params.yaml is read.

They are as wide as the mathematics allows; what a method needs beyond them, it checks itself.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

MOST = 10**12  # of a count: what is above is a mistake

Count = Annotated[int, Ge(1), Le(MOST)]  # 1, 2, ...
CountOrZero = Annotated[int, Ge(0), Le(MOST)]  # 0, 1, ...
Seed = Annotated[int, Ge(0), Lt(2**31)]  # below 2^31, so that sums with other seeds fit into 64 bits
Number = Annotated[float, Ge(-1e12), Le(1e12)]  # finite
Positive = Annotated[float, Gt(0), Le(1e12)]  # finite, above 0
NotNegative = Annotated[float, Ge(0), Le(1e12)]  # finite
MaybeInfinite = Annotated[float, Ge(0)]  # 0 to infinity
Fraction = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Lt(1)]
Probability = Annotated[float, Ge(0), Le(1)]
