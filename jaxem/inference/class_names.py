"""The names of classes in tables."""

from collections.abc import Sequence

from jaxem.core.checks import brief


def class_names(k: int, names: Sequence[str] | None, kind: str = "class") -> tuple[str, ...]:
    """The names of ``k`` classes, by default ``class 0``, ``class 1``, ...

    Raises ``ValueError`` where ``names`` are not ``k`` different texts.
    """
    if names is None:
        return tuple(f"{kind} {j}" for j in range(k))
    found = (names,) if isinstance(names, str) else tuple(names)
    if len(found) != k or len(set(found)) < k or not all(isinstance(name, str) for name in found):
        raise ValueError(f"names must be {k} different texts, one for each {kind}; got {brief(names)}")
    return found
