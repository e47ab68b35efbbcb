"""Vectors that say which model they are of."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike


class Embedding(np.ndarray[Any, np.dtype[np.float32]]):
    """A NumPy array, float32 [d], with the `model` that made it and that model's `fingerprint`.

    Slices, copies and pickles keep both. Only vectors with equal fingerprints may be compared.
    """

    model: str | None
    fingerprint: str | None

    def __new__(cls, numbers: ArrayLike, model: str | None = None, fingerprint: str | None = None) -> Self:
        made = np.asarray(numbers, np.float32).view(cls)
        made.model, made.fingerprint = model, fingerprint
        return made

    def __array_finalize__(self, origin: Any) -> None:
        self.model = getattr(origin, "model", None)
        self.fingerprint = getattr(origin, "fingerprint", None)

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        make, arguments, state = reduced
        return make, arguments, (*state, self.model, self.fingerprint)

    def __setstate__(self, state: Any) -> None:
        *own, self.model, self.fingerprint = state
        super().__setstate__(tuple(own))
