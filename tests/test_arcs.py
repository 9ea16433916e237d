"""Angles seen in part: log P of an arc and its derivatives to 50 digits, the laws, direct searches, draws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from closeness import as_dtype, assert_within, eps
from scipy import integrate, optimize, special, stats

import jaxem
from jaxem.families import Censored, Truncated, VonMises, VonMisesParams, arcs, grouped, limited
from jaxem.families.tails import of_family
from jaxem.models import HMM, Mixture

PI = np.pi
TURN = 2 * np.pi


@functools.cache
def legendre(n=48):
    """Nodes in (0, 1) and weights, to 40 digits."""
    found = []
    with mpmath.workdps(40):
        for start in np.polynomial.legendre.leggauss(n)[0]:
            x = mpmath.mpf(start)
            for _ in range(3):
                before, value = mpmath.mpf(1), x
                for k in range(2, n + 1):
                    before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
                slope = n * (x * value - before) / (x * x - 1)
                x -= value / slope
            found.append(((1 + x) / 2, 1 / ((1 - x * x) * slope**2)))
    return found


def rest(y):
    return 2 * mpmath.sin(y / 2) ** 2


def part(kappa, at, p, q):
    """The integrals of 1, sin y and 1 - cos y times e^(-kappa (1 - cos y) - at), for 0 <= p <= y <= q <= pi.

    In pieces over which the density falls by no more than e^-25, until it has fallen by e^-70.
    """
    points = [p]
    for fall in (4, 12, 25, 45, 70) if kappa else ():
        cos = mpmath.cos(p) - fall / kappa
        points.append(min(mpmath.acos(cos) if cos > -1 else q, q))
    points += [] if kappa and points[-1] < q else [q]
    sums = mpmath.matrix(1, 3)
    for start, end in itertools.pairwise(points):
        for t, weight in legendre() if start < end else ():
            y = start + (end - start) * t
            share = (end - start) * weight * mpmath.exp(-kappa * rest(y) - at)
            sums += mpmath.matrix([[share, share * mpmath.sin(y), share * rest(y)]])
    return sums


def integrals(kappa, low, high):
    """Those of ``part`` from y = low to high, the exponent that they are relative to, and the end between -pi and pi."""
    pi = +mpmath.pi
    a = low - 2 * pi * mpmath.nint(low / (2 * pi))
    b = a + (high - low)
    end = b - 2 * pi * mpmath.nint(b / (2 * pi))
    at = 0 if a <= 0 <= b or b >= 2 * pi else -kappa * rest(min(abs(a), abs(end)))
    sums = mpmath.matrix(1, 3)
    for half in range(-1, 3):
        left, right = max(a, half * pi) - half * pi, min(b, (half + 1) * pi) - half * pi
        if left < right and half % 2:
            found = part(kappa, at, pi - right, pi - left)
            sums += mpmath.matrix([[found[0], -found[1], found[2]]])
        elif left < right:
            sums += part(kappa, at, left, right)
    return sums, at, end


def exactly(*row):
    """log P, its slopes in m and in log kappa, and how much all three move with relative changes of the ends."""
    m, kappa, low, high = (mpmath.mpf(float(v)) for v in row)
    reach = abs(m) + max(abs(low), abs(high)) + 2 * mpmath.pi
    sums, at, end = integrals(kappa, low - m, high - m)
    i0, i1 = (mpmath.besseli(order, kappa) for order in (0, 1))
    constant = kappa - mpmath.log(2 * mpmath.pi * i0)
    log_p = mpmath.log(sums[0]) + at + constant
    if log_p > -0.1:
        others, other, _ = integrals(kappa, high - m, low - m + 2 * mpmath.pi)
        log_p = mpmath.log1p(-others[0] * mpmath.exp(other + constant))
    slopes = kappa * sums[1] / sums[0], kappa * (1 - i1 / i0 - sums[2] / sums[0])
    moves = [0, 0, 0]
    for y in (low - m, end):
        density = reach * mpmath.exp(-kappa * rest(y) - at) / sums[0]
        gaps = mpmath.sin(y) - sums[1] / sums[0], rest(y) - sums[2] / sums[0]
        moves = [old + density * abs(new) for old, new in zip(moves, (1, *(kappa * gap for gap in gaps)), strict=True)]
    return float(log_p), [float(slope) for slope in slopes], [float(move) for move in moves]


CONCENTRATIONS = 0.0, 1e-6, 0.5, 4.0, 24.0, 1e3, 1e8, 1e12
# About the direction, in units of its width 1 / sqrt(kappa), or in radians.
SCALED = (-1, 2), (0.5, 1), (-3, -2.9375), (5, 12), (-1, 9), (-40, -30)
RADIANS = [
    *((-1, 2), (0.25, 2.5), (-2, -1), (2, 4), (3, 3.25), (PI - 1e-3, PI + 2e-3), (1, 6), (-0.5, 4.5), (-6, -0.25)),
    *((2.5, 2.5 + 2**-10), (-1.5, 1.5), (-3, 3), (0.125, 0.125 + TURN - 2**-8), (-7, -5), (30, 31), (0, PI), (-PI, 0)),
]


def rows(dtype):
    found = []
    for kappa in CONCENTRATIONS:
        width = 1 / np.sqrt(max(kappa, 1))
        found += [(0.0, kappa, width * a, width * b) for a, b in SCALED if width * (b - a) < TURN]
        found += [(0.25, kappa, 0.25 + a, 0.25 + b) for a, b in RADIANS]
    return as_dtype(tuple(np.array(column) for column in zip(*found, strict=True)), dtype)


@pytest.fixture(scope="module")
def wanted():
    """By dtype."""
    found = {}

    def of(dtype):
        if dtype not in found:
            with mpmath.workdps(40):
                found[dtype] = [exactly(*row) for row in np.stack(rows(dtype), axis=1)]
        return found[dtype]

    return of


def context(m, kappa):
    """A class for each row."""
    return jax.tree.map(lambda leaf: leaf[:, None], VonMises().prepare(VonMisesParams(m, kappa), None))


def test_probabilities_of_arcs(dtype, wanted):
    """log P and its derivatives, also by Fisher's identity, against 50 digits."""
    m, kappa, low, high = rows(dtype)
    ends, family = (low[:, None], high[:, None]), VonMises()
    of = lambda *p: family.log_interval(context(*p), *ends)

    def by_moments(*p):
        u = family.between(context(*p), *ends)
        return jax.grad(lambda *p: family.expected_log_density(context(*p), u).sum(), (0, 1))(*p)

    both = jax.jit(lambda *p: (of(*p), jax.grad(lambda *p: of(*p).sum(), (0, 1))(*p), by_moments(*p)))
    found, slopes, others = both(m, kappa)
    for i, (value, at, moved) in enumerate(wanted(dtype)):
        unit = 16 * eps(dtype)
        assert_within(found[i, 0], value, unit * (abs(value) + abs(at[1]) + moved[0]) + np.finfo(dtype).tiny)
        for j, scale in enumerate((1.0, float(kappa[i]))):
            allowed = unit * (abs(value) * j + abs(at[j]) + moved[1 + j] + 1)
            for slope in (slopes[j], others[j]):
                assert_within(slope[i] * scale, at[j], allowed)
