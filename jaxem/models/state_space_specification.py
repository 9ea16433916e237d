"""What a state-space model is made of: its patterns as spaces, and whether they fit each other."""

from typing import Any

import numpy as np

from jaxem.models.state_space_identity import redundant
from jaxem.models.state_space_patterns import Pattern, Spec, is_fixed, shape_of


def space_of(base: Any, spec: Spec) -> Any:
    """The space of elements of ``base`` with a pattern."""
    return base if isinstance(spec, str) else Pattern(base, spec)


def is_matrix(spec: Spec) -> bool:
    """Whether a covariance is a whole matrix, free or given."""
    return spec == "full" or (isinstance(spec, tuple) and isinstance(spec[0], tuple))


def is_live(spec: Spec, size: int) -> np.ndarray:
    """Which directions have noise: those whose variance is not fixed at zero."""
    if isinstance(spec, str) or is_matrix(spec):
        return np.ones(size, bool)
    return np.array([entry != 0 for entry in spec])


def check(model: Any) -> None:
    """Raise ``ValueError`` where the patterns do not fit each other."""
    k, r = model.states, model.shocks
    if r > k:
        raise ValueError(f"StateSpace: shocks must be at most the number of states, {k}; it is {r}")
    title = lambda name: f"StateSpace: {name}"

    def check_matrix(name: str, spec: Spec, *wanted: int | None) -> tuple[int, ...] | None:
        if spec is None or spec == "free":
            return None
        if isinstance(spec, str):
            raise ValueError(f"{title(name)} must be 'free' or a pattern; got {spec!r}")
        return shape_of(title(name), spec, wanted)

    def check_covariance(name: str, spec: Spec, size: int | None) -> None:
        if spec in ("full", "diagonal"):
            return
        if not isinstance(spec, tuple):
            raise ValueError(f"{title(name)} must be 'full', 'diagonal', variances or a matrix; got {spec!r}")
        if isinstance(spec[0], tuple):
            shape_of(title(name), spec, (size, size))
            if not is_fixed(spec):
                raise ValueError(f"{title(name)}: a matrix must be numbers; a list is a pattern of variances")
            return
        shape_of(title(name), spec, (size,))
        if any(isinstance(entry, float) and entry < 0 for entry in spec):
            raise ValueError(f"{title(name)}: variances must not be negative")

    for name in ("transition", "loadings"):
        if getattr(model, name) is None:
            raise ValueError(f"{title(name)} must be 'free' or a pattern; got None")
    check_matrix("transition", model.transition, k, k)
    outputs = check_matrix("loadings", model.loadings, None, k)
    d = None if outputs is None else outputs[0]
    check_matrix("state_inputs", model.state_inputs, k, None)
    check_matrix("output_inputs", model.output_inputs, d, None)
    check_covariance("process", model.process, r)
    check_covariance("noise", model.noise, d)
    if isinstance(model.noise, tuple) and not isinstance(model.noise[0], tuple) and 0.0 in model.noise:
        raise ValueError("StateSpace: noise must have positive variances; give a column without noise a small one")
    still = list(range(r, k)) + [i for i in range(r) if not is_live(model.process, r)[i]]
    for name, spec in (("transition", model.transition), ("state_inputs", model.state_inputs)):
        if spec is not None and still and (spec == "free" or not all(is_fixed(spec[i]) for i in still)):
            raise ValueError(
                f"StateSpace: row {still[0]} of {name} must be numbers, because that state has no noise: the EM "
                "algorithm cannot estimate how it moves"
            )
    if model.initial not in ("free", "diffuse"):
        if not (isinstance(model.initial, tuple) and len(model.initial) == 2):
            raise ValueError("StateSpace: initial must be 'free', 'diffuse' or a pair (mean, covariance)")
        check_matrix("initial mean", model.initial[0], k)
        check_covariance("initial covariance", model.initial[1], k)
    if model.initial == "diffuse" and redundant(model)[1]:
        raise ValueError(
            "StateSpace: with a diffuse first state the scale of the states must be fixed, by loadings or by the "
            "covariance of their noise: otherwise the likelihood has no bound"
        )
