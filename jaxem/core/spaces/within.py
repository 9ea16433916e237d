"""Spaces that are a part of another one: what they answer as that space does."""

from typing import Any

import numpy as np

from jaxem.core.spaces import answers
from jaxem.core.spaces.protocol import Edge


class Within:
    """The answers that a space with some elements held, tied or linked takes over from its underlying ``space``."""

    @property
    def event_ndim(self: Any) -> int:
        """The same as for the underlying space."""
        return answers.event_ndim(self.space)

    @property
    def unit(self: Any) -> float | None:
        """The same as for the underlying space."""
        return answers.unit(self.space)

    @property
    def unit_free(self: Any) -> bool:
        """The same as for the underlying space."""
        return answers.unit_free(self.space)

    def names(self: Any, name: str, labels: answers.Labels) -> list[str]:
        return answers.names(self.space, name, labels)

    def repeated(self: Any, shape: answers.Shape) -> np.ndarray:
        return answers.repeated(self.space, shape)


def edge_within(space: Any) -> Edge:
    """The edge of the space underlying ``space``, where it has one."""
    edge = answers.edge(space.space)
    assert edge is not None
    return edge
