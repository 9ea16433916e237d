r"""The maps of the states that change no likelihood and keep the pattern of a state-space model.

With x -> T x the matrices become T A T^-1, C T^-1, T B, T Q T', T m and T P T'. Near T = I + X this is linear in X. The
maps that keep all fixed and equal elements are the null space of the rest, found here by its rank at random parameters.
"""

import functools
from typing import Any

import numpy as np

from jaxem.models.state_space_patterns import Spec, layout


@functools.cache
def redundant(model: Any) -> tuple[int, bool]:
    """The number of such directions, and whether one of them changes the volume of the states."""
    k, r = model.states, model.shocks
    rng = np.random.default_rng(0)
    A = _random(model.transition, (k, k), rng)
    parts: list[Any] = [(lambda X: X @ A - A @ X, model.transition, (k, k))]
    if model.loadings != "free":
        shape = (len(model.loadings), k)
        C = _random(model.loadings, shape, rng)
        parts.append((lambda X: C @ X, model.loadings, shape))
    if model.state_inputs not in (None, "free"):
        shape_b = (k, len(model.state_inputs[0]))
        B = _random(model.state_inputs, shape_b, rng)
        parts.append((lambda X: X @ B, model.state_inputs, shape_b))
    if not isinstance(model.initial_pair, tuple):
        first: tuple[Spec, Spec] = ("free", "full")
    else:
        first = model.initial_pair
    if first[0] != "free":
        m = _random(first[0], (k,), rng)
        parts.append((lambda X: X @ m, first[0], (k,)))
    residual: list[Any] = [
        lambda X, f=f, spec=spec, shape=shape: _beyond(f(X), spec, shape) for f, spec, shape in parts
    ]
    for spec, size in ((model.process, r), (first[1], k)):
        S = np.zeros((k, k))
        S[:size, :size] = _covariance(spec, size, rng)
        residual.append(lambda X, S=S, spec=spec, size=size: _beyond_covariance(X @ S + S @ X.T, spec, size))
    columns = [np.concatenate([f(X).ravel() for f in residual]) for X in np.eye(k * k).reshape(-1, k, k)]
    matrix = np.stack(columns, axis=1)
    _, values, rows = np.linalg.svd(matrix)
    rank = int((values > 1e-9 * max(values.max(initial=0), 1)).sum())
    null = rows[rank:].reshape(-1, k, k)
    return k * k - rank, bool((np.abs(np.trace(null, axis1=1, axis2=2)) > 1e-9).any())


def _random(spec: Spec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    index, values = layout(spec, shape)
    free = rng.normal(size=max(index.size, 1))
    return np.where(index < 0, values, free[np.maximum(index, 0)])


def _covariance(spec: Spec, size: int, rng: np.random.Generator) -> np.ndarray:
    if spec == "full":
        root = rng.normal(size=(size, size))
        return root @ root.T
    if isinstance(spec, tuple) and isinstance(spec[0], tuple):
        return np.array(spec)
    return np.diag(np.abs(_random("free" if spec == "diagonal" else spec, (size,), rng)))


def _beyond(change: np.ndarray, spec: Spec, shape: tuple[int, ...]) -> np.ndarray:
    """What a pattern does not allow of a change: of fixed elements all, of equal ones the differences."""
    index, _ = layout(spec, shape)
    means = np.array([change[index == g].mean() for g in range(index.max(initial=-1) + 1)] or [0.0])
    return change - np.where(index < 0, 0, means[np.maximum(index, 0)])


def _beyond_covariance(change: np.ndarray, spec: Spec, size: int) -> np.ndarray:
    inner = change[:size, :size].copy()
    change = change.copy()
    change[:size, :size] = 0  # noise must not reach the states that have none
    if spec == "full":
        inner[:] = 0
    elif isinstance(spec, str) or not isinstance(spec[0], tuple):
        allowed = "free" if spec == "diagonal" else spec
        inner[np.diag_indices(size)] = _beyond(np.diagonal(inner).copy(), allowed, (size,))
    return np.concatenate([inner.ravel(), change.ravel()])
