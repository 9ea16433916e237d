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
from jaxem.families import Censored, Truncated, VonMises, VonMisesParams, grouped, limited
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
    """Those of ``part`` from low to high, the exponent that they are relative to, and the end between -pi and pi."""
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


@pytest.mark.slow
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


def test_narrow_arcs_are_density_times_width(dtype):
    """To first order in the width, also where a mean over the arc has an error of a width squared."""
    family, kappa = VonMises(), as_dtype(np.array([0.0, 2.0, 500.0]), dtype)
    c = family.prepare(VonMisesParams(jnp.zeros_like(kappa), kappa), None)
    low = as_dtype(np.array([-3.0, 0.0, 0.125, 3.0]), dtype)
    width = 2.0**-18
    found = jax.jit(family.log_interval)(jax.tree.map(lambda leaf: leaf[None], c), low[:, None], low[:, None] + width)
    middle = jax.jit(family.log_density)(c, low + width / 2) + float(np.log(width))
    assert_within(found, middle, 8 * eps(dtype) * (1 + np.abs(middle)) + width**2 * (1 + np.asarray(kappa) ** 2))


@pytest.mark.slow
def test_parts_of_the_circle_sum_to_one(dtype):
    """Any cut; and an arc that is moved by whole turns, or mirrored, has the same probability."""
    family, kappa = VonMises(), as_dtype(np.array([0.0, 0.3, 7.0, 1e4]), dtype)
    params = VonMisesParams(jnp.full_like(kappa, 0.5), kappa)
    c = jax.tree.map(lambda leaf: leaf[None], family.prepare(params, None))
    log_p = jax.jit(family.log_interval)
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.uniform(-9, 9, (1, 1))) + np.cumsum(np.array([0, 0.01, 1.3, 0.6, 2.2])[:, None], axis=0)
    for turn in (0.0, 2.0, 4.0):
        ends = as_dtype(np.concatenate([cuts, cuts[:1] + TURN]) + turn, dtype)
        total = np.exp(log_p(c, ends[:-1], ends[1:])).sum(axis=0)
        assert_within(total, np.ones(4), 64 * eps(dtype) * 100)  # the densities reach 40, ends are up to 20
    low, high = as_dtype((np.array([[-1.0], [2.0], [0.25]]), np.array([[0.75], [7.0], [3.0]])), dtype)
    mirrored = log_p(c, 1 - high, 1 - low)  # about 0.5
    assert_within(mirrored, log_p(c, low, high), 64 * eps(dtype) * (1 + np.abs(mirrored) + np.asarray(kappa)))


def seen(kind, n=80):
    """Angles of two classes, exact, in octants, and in arcs of more than half a turn; or those on an arc."""
    rng = np.random.default_rng(2)
    x = np.where(rng.random(n) < 0.4, rng.vonmises(2.5, 6.0, n), rng.vonmises(0.0, 3.0, n))
    if kind == "truncated":
        return x[(x > -0.5) | (x < 4.0 - TURN)]
    found = np.stack([x, x], axis=1)
    found[::2] = np.asarray(grouped(x[::2], np.arange(8) * PI / 4 - 3, turn=TURN))
    found[3::8] = x[3::8, None] + np.array([-2.0, 1.9])
    return found


def probability(m, kappa, low, high):
    """By SciPy."""
    return stats.vonmises.cdf(high, kappa, m) - stats.vonmises.cdf(low, kappa, m)


@pytest.mark.parametrize("kind", ["censored", "truncated"])
@pytest.mark.slow
def test_the_maximum_is_that_of_a_direct_search(kind):
    """A mixture of two classes."""
    x = seen(kind)
    model = Mixture(Censored(VonMises()) if kind == "censored" else Truncated(VonMises(), -0.5, 4.0), 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x, algorithm=jaxem.SQUAREM(), tol=1e-14, max_steps=2000)

    def minus(u):
        share, total = special.expit(u[0]), 0
        classes = list(zip((share, 1 - share), u[1:3], np.exp(u[3:]), strict=True))
        if kind == "truncated":
            mass = [probability(m, k, -0.5, 4.0) for _, m, k in classes]
            terms = [w * stats.vonmises.pdf(x, k, m) / p for (w, m, k), p in zip(classes, mass, strict=True)]
            return -np.log(sum(terms)).sum()
        exact = x[:, 0] == x[:, 1]
        total = np.log(sum(w * stats.vonmises.pdf(x[exact, 0], k, m) for w, m, k in classes)).sum()
        return -total - np.log(sum(w * probability(m, k, *x[~exact].T) for w, m, k in classes)).sum()

    m, kappa = (np.asarray(leaf) for leaf in fit.params.components)
    at = np.r_[special.logit(fit.params.weights[0]), m, np.log(kappa)]
    assert float(fit.objective) == pytest.approx(-minus(at), rel=1e-10)
    best = optimize.minimize(minus, at + 0.05 * np.array([1, -1, 1, 1, -1]), method="BFGS", options={"gtol": 1e-5})
    assert float(fit.objective) == pytest.approx(-best.fun, rel=1e-9)
    np.testing.assert_allclose(at, best.x, atol=2e-4)  # of the search's own differences


@pytest.mark.slow
def test_draws_and_means_within_arcs():
    """Draws by their distribution function, means by quadrature: the direction of E e^(ix)."""
    family, m, kappa = VonMises(), 0.5, 3.0
    params = VonMisesParams(jnp.array([m]), jnp.array([kappa]))
    c = jax.tree.map(lambda leaf: leaf[None], family.prepare(params, None))
    ends = np.array([(1.0, 2.0), (-1, 0.7), (2, 5), (-4, 1.5), (0, 6), (PI - 0.1, PI + 0.2), (13, 14), (-3, -2.5)])
    low, high = (jnp.asarray(column)[:, None] for column in ends.T)
    means = np.asarray(jax.jit(family.mean_between)(c, low, high))[:, 0]
    draws = jax.jit(lambda a, b: family.sample_between(jax.random.key(1), params, jnp.zeros(800, int), a, b))
    density = lambda x: np.exp(kappa * np.cos(x - m))
    for (a, b), mean in zip(ends, means, strict=True):
        cos, sin, total = (
            integrate.quad(lambda x, f=f: f(x) * density(x), a, b, epsabs=1e-13)[0]
            for f in (np.cos, np.sin, np.ones_like)
        )
        middle = (a + b) / 2
        away = np.angle((cos + 1j * sin) * np.exp(-1j * middle))
        assert mean == pytest.approx(middle + away, rel=1e-10)
        x = np.asarray(draws(a, b))
        assert (x >= a).all() and (x <= b).all()
        grid = np.linspace(a, b, 4001)
        below = integrate.cumulative_simpson(density(grid), x=grid, initial=0) / total
        assert stats.kstest(np.interp(x, grid, below), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kappa", [0.0, 3.0, 1e10])
@pytest.mark.slow
def test_draws_of_the_whole_circle_and_far_from_the_direction(kappa):
    family, labels = VonMises(), jnp.zeros(2000, int)
    params = VonMisesParams(jnp.array([2.0]), jnp.array([kappa]))
    draw = jax.jit(lambda a, b: family.sample_between(jax.random.key(3), params, labels, a, b))
    x = np.asarray(draw(-np.inf, np.inf))
    assert (np.abs(x) <= PI).all()
    u = stats.vonmises.cdf(x - 2.0, kappa) if kappa < 1e4 else stats.norm.cdf((x - 2.0) * kappa**0.5)
    u = (u % 1) if kappa < 1e4 else u
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    if kappa == 1e10:  # beyond 3, the density falls by e^(-kappa sin(1) d)
        x = np.asarray(draw(3.0, 4.0))
        assert stats.kstest((x - 3) * kappa * np.sin(1), "expon").pvalue > 1e-3
        # In 32 bits, from a direction of 0, where angles are finer than at the other end of the arc.
        params = as_dtype(VonMisesParams(np.zeros(1), np.full(1, 1e12)), np.float32)
        x = np.asarray(jax.jit(lambda a, b: family.sample_between(jax.random.key(3), params, labels, a, b))(0.0, 3.0))
        assert stats.kstest(x.astype(float) * 1e6, "halfnorm").pvalue > 1e-3


@pytest.mark.slow
def test_what_is_an_arc():
    """Two ends or none, at most a turn apart, in any number of turns."""
    model = Mixture(Censored(VonMises()), 1)
    good = np.array([(1, 1), (3, 4), (-np.inf, np.inf), (30, 30 + TURN), (-1, 5.2), (2, 2.5)])
    params = model.init(jax.random.key(0), good)
    for wrong in ((4, 3), (-np.inf, 1), (1, np.inf), (0, 6.3), (2, 2 - TURN), (np.inf, -np.inf)):
        with pytest.raises(ValueError, match=r"low <= high <= low \+ 6.28319, finite or both infinite"):
            model.init(jax.random.key(0), np.concatenate([good, [wrong]]))
    densities = lambda x: np.asarray(model.log_prob(params, x))
    one = densities(good)
    np.testing.assert_allclose(one, densities(good + TURN), rtol=1e-13)
    np.testing.assert_array_equal(one[2:4], 0)  # nothing is known
    for ends in ((3, 3 + 7), (2, 1), (0, np.inf), (-np.inf, 3)):
        with pytest.raises(ValueError, match=r"an arc goes|no value lies"):
            Truncated(VonMises(), *ends)
    for scheme in ({"edges": (0, 3, 7)}, {"limits": (0, 6.4)}):
        with pytest.raises(ValueError, match="an arc goes from low to a higher number, at most one turn"):
            Censored(VonMises(), **scheme)
    assert Truncated(VonMises(), -1, TURN - 1) == Truncated(VonMises())


@pytest.mark.slow
def test_arcs_cut_at_limits():
    """By the shares of the pieces; two pieces are refused."""
    m = VonMisesParams(jnp.array([0.5]), jnp.array([2.0]))
    family, plain = Truncated(Censored(VonMises()), 1.0, 4.0), VonMises()
    c = family.prepare(m, None)
    of_arc = jax.jit(lambda ends: plain.log_interval(jax.tree.map(lambda leaf: leaf[None], c), *ends)[0, 0])
    log_p = lambda a, b: float(of_arc(jnp.array([[[a]], [[b]]], float)))
    density = jax.jit(family.log_density)
    cases = [((0, 2), (1, 2)), ((3, 5), (3, 4)), ((-1, 1.5), (1, 1.5)), ((5, 8), (1, 8 - TURN)), ((2, 3), (2, 3))]
    cases += [((0, 6), (1, 4)), ((-np.inf, np.inf), (1, 4)), ((2, 2 + TURN), (1, 4))]
    for turn in (-1, 0, 3):
        for (low, high), (a, b) in cases:
            x = jnp.array([[float(low), float(high)]]) + turn * TURN
            assert bool(family.supports(x)[0])
            found = float(density(c, x)[0, 0])
            assert found == pytest.approx(log_p(a, b) - log_p(1, 4), abs=1e-14)
    for low, high in ((3, 8), (4.5, 6.0), (5, 5), (2, 1)):
        assert not bool(family.supports(jnp.array([[float(low), high]]))[0])
    assert bool(family.supports(jnp.array([[1.5, 1.5]]) + 5 * TURN)[0])


@pytest.mark.slow
def test_sectors_and_limits_of_data():
    x = np.array([0.1, 3.0, -3.0, 7.0, 100.0])
    edges = np.arange(4) * PI / 2
    found = np.asarray(grouped(x, edges, turn=TURN))
    np.testing.assert_array_equal(found, np.asarray(grouped(x, [*edges, TURN], turn=TURN)))
    inside = (x - found[:, 0]) % TURN
    assert (inside < PI / 2).all() and np.allclose(found[:, 1] - found[:, 0], PI / 2)
    found = np.asarray(limited(x, 3.0, 5.0, TURN))
    np.testing.assert_array_equal(found[[1, 2]], x[[1, 2], None].repeat(2, axis=1))
    np.testing.assert_array_equal(found[[0, 3, 4]], [[5.0, 3.0 + TURN]] * 3)
    for scheme in ({"edges": tuple(edges)}, {"limits": (3.0, 5.0)}):
        family = Censored(VonMises(), **scheme)
        params = VonMisesParams(jnp.array([2.0]), jnp.array([1.0]))
        drawn = np.asarray(family.sample(jax.random.key(0), params, jnp.zeros(300, int)))
        plain = np.asarray(VonMises().sample(jax.random.key(0), params, jnp.zeros(300, int)))
        again = grouped(plain, edges, turn=TURN) if "edges" in scheme else limited(plain, 3.0, 5.0, TURN)
        np.testing.assert_array_equal(drawn, again)
        model = Mixture(family, 1)
        start = model.init(jax.random.key(0), drawn)
        assert model.sample_like(jax.random.key(1), start, jnp.asarray(drawn)).shape == drawn.shape  # in a program
    with pytest.raises(ValueError, match="an arc goes"):
        limited(x, 3.0, turn=TURN)


@pytest.mark.slow
def test_imputed_angles_are_directions():
    """Of the mixture's E e^(ix), given the arc or nothing: 3.1 and -3.1 do not make 0."""
    params = VonMisesParams(jnp.array([3.1, -3.1]), jnp.array([4.0, 9.0]))
    model = Mixture(VonMises(), 2)
    start = model.init(jax.random.key(0), np.linspace(-3, 3, 20))._replace(components=params)
    x = jaxem.dataset(np.array([np.nan, 1.0]), missing="nan")
    a = np.asarray(special.i1e(params.concentrations) / special.i0e(params.concentrations))
    wanted = np.angle((np.asarray(start.weights) * a * np.exp(1j * np.asarray(params.directions))).sum())
    np.testing.assert_allclose(jaxem.impute(model, start, x), [wanted, 1.0], rtol=1e-13)
    seen_model = Mixture(Censored(VonMises()), 2)
    arcs_seen = np.array([[-np.inf, np.inf], [1.0, 1.0], [3.0, 3.5]])
    found = np.asarray(jaxem.impute(seen_model, start, arcs_seen))
    assert (found[:, 0] == found[:, 1]).all()
    share = np.asarray(seen_model.e_step(start, arcs_seen).probabilities)[2]
    means = []
    for m, kappa in zip(*map(np.asarray, params), strict=True):
        f = lambda x, g, m=m, kappa=kappa: g(x) * np.exp(kappa * np.cos(x - m))
        cos, sin, total = (integrate.quad(f, 3.0, 3.5, args=(g,))[0] for g in (np.cos, np.sin, np.ones_like))
        means.append((cos + 1j * sin) / total)
    np.testing.assert_allclose(found[[0, 2], 0], [wanted, np.angle(share @ means) % TURN], rtol=1e-10)


@pytest.mark.slow
def test_residuals_on_an_arc():
    """A circle has no distribution function; an arc has one, from its low end."""
    params = VonMisesParams(jnp.array([0.5]), jnp.array([2.0]))
    family = Truncated(VonMises(), 2.0, 5.0)
    x = np.array([2.5, 4.0 - TURN, 4.9 + TURN])
    found = of_family(family, family.prepare(params, None), jnp.asarray(x))
    total = probability(0.5, 2.0, 2.0, 5.0)
    for i, y in enumerate((2.5, 4.0, 4.9)):
        np.testing.assert_allclose(found.below[i, 0], probability(0.5, 2.0, 2.0, y) / total, rtol=1e-11)
        np.testing.assert_allclose(found.above[i, 0], probability(0.5, 2.0, y, 5.0) / total, rtol=1e-11)
    for whole in (VonMises(), Truncated(VonMises())):
        with pytest.raises(ValueError, match="has no distribution function"):
            of_family(whole, family.prepare(params, None), jnp.zeros(3))


@pytest.mark.everything
def test_every_law_holds_in_a_chain():
    x = jnp.asarray(seen("censored")).reshape(4, 20, 2)
    model = HMM(Censored(VonMises()), 2)
    start = model.init(jax.random.key(0), x)
    fit = jaxem.fit(model, start, x, max_steps=200)
    for point in (start, fit.params):
        certificate = jaxem.verify(model, point, x)
        assert certificate.ok, certificate


@pytest.mark.slow
def test_second_derivatives():
    """Of log P in both parameters against differences of first ones."""
    low, high = (jnp.array(column)[:, None] for column in ([1.0, -1.0, 2.0, 0.0], [2.0, 1.5, 5.0, 6.0]))
    of = lambda u: VonMises().log_interval(context(u[:1], jnp.exp(u[1:])), low, high)[:, 0]
    slope, curvature = (jax.jit(f) for f in (jax.jacfwd(of), jax.jacfwd(jax.jacrev(of))))
    u, step = jnp.array([0.5, 0.7]), 1e-5
    for i in range(2):
        move = step * np.eye(2)[i]
        wanted = (slope(u + move) - slope(u - move)) / (2 * step)
        np.testing.assert_allclose(curvature(u)[:, :, i], wanted, atol=1e-9)
