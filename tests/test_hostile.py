"""Hostile calls: each ends in the right answer, a ValueError of one sentence, or a status; none in JAX's errors."""

import decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxem
from jaxem import Dataset, Status
from jaxem.families import (
    Bernoulli,
    Categorical,
    Exponential,
    MultivariateNormal,
    Normal,
    NormalInverseWishart,
    Poisson,
)
from jaxem.families.normal import NormalParams
from jaxem.families.protocol import log_density
from jaxem.inference.selection.comparison import describe
from jaxem.models import HMM, FactorAnalysis, Mixture, MixtureParams

KEY = jax.random.key(0)
X = np.array([0.1, -0.4, 0.3, 1.1, 4.8, 5.5, 6.1, 5.2])
NORMAL = Mixture(Normal(), 2)
START = MixtureParams(np.array([0.5, 0.5]), NormalParams(np.array([0.0, 5.0]), np.array([1.0, 1.0])))
COLUMNS = np.stack([X, X[::-1] + 0.1 * X**2, np.cos(X)], axis=1)
PLANE = Mixture(MultivariateNormal("diag"), 2)
PLANE_START = PLANE.init(KEY, COLUMNS)
COUNTS = np.array([0, 1, 0, 2, 9, 7, 8, 6])
POISSON = Mixture(Poisson(), 2)
POISSON_START = POISSON.init(KEY, COUNTS)
CHAIN = HMM(Normal(), 2)
CHAIN_START = CHAIN.init(KEY, X[None])
FACTORS = FactorAnalysis(1)
FACTORS_START = FACTORS.init(KEY, COLUMNS)
FIT = jaxem.fit(NORMAL, START, X)
E_ONLY = jaxem.Model(lambda params, data: params)


class Frame:
    """What a data frame looks like from outside."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values


def fit(data=X, params=START, model=NORMAL, **options):
    return jaxem.fit(model, params, data, **options)


def user(log_joint=None, params=0.5, data=X, **functions):
    """A fit of a model of a user's own."""
    model = jaxem.Model(**functions) if log_joint is None else jaxem.from_log_joint(log_joint)
    return jaxem.fit(model, params, data)


def closes_over(s):
    model = jaxem.Model(e_step=lambda m, x: m, m_step=lambda m, x: s * m + x[0])
    return jaxem.fit(model, 1.0, X, max_steps=2).params


def climbs_over(s):
    """The same, where the M-step is gradient ascent."""
    model = jaxem.from_log_joint(lambda m, x: jnp.stack([-((x - m) ** 2) * s, -(x**2)]))
    return jaxem.fit(model, 1.0, X, max_steps=2).params


def with_bad(x, value, row=2):
    x = np.array(x, float)
    x[row] = value
    return x


REFUSED = {
    # data that are no numbers
    "texts": (lambda: fit(["a", "b"]), "the data must be numbers; got texts"),
    "a text": (lambda: fit("data.csv"), "got texts"),
    "dates": (lambda: fit(np.array(["2020-01-01"] * 8, "M8[D]")), "got dates. Count from an origin"),
    "spans of time": (lambda: fit(np.array([1] * 8, "m8[s]")), "spans of time. Divide by a unit"),
    "None": (lambda: fit(None), "needs data; got nothing"),
    "None within": (lambda: fit(np.array([1.0, None] * 4, object)), "one entry is None"),
    "a number as text": (lambda: fit(np.array([1.0, "2"] * 4, object)), "one entry is '2'"),
    "a set": (lambda: fit({1, 2}), "one entry is a set"),
    "a generator": (lambda: fit(x for x in X), "one entry is a generator"),
    "a class": (lambda: fit(float), "the class float"),
    "records": (lambda: fit(np.zeros(8, [("a", float)])), "got records"),
    "complex": (lambda: fit(X + 1j), "the data must be real numbers; they are complex"),
    "complex, of JAX": (lambda: fit(jnp.asarray(X + 1j)), "they are complex"),
    "complex, in a trace": (lambda: jax.jit(fit)(X + 0j), "they are complex"),
    "masked": (lambda: fit(np.ma.masked_greater(X, 5)), "some entries are masked"),
    "ragged lists": (lambda: fit([[1.0], [1.0, 2.0]]), "has no sequences of its own"),
    "lists of unequal shape": (lambda: fit([np.ones((2, 1)), np.ones((2, 3))]), "unequal shape is no array"),
    "too large": (lambda: fit(np.array([2**64 - 1] * 8, np.uint64)), "do not fit 64 bits"),
    "far too large": (lambda: fit([2**70] * 8), "do not fit 64 bits"),
    "whole numbers that floats cannot tell": (lambda: fit(2**60 + np.arange(8)), "digits that matter.*offset"),
    "empty": (lambda: fit(X[:0]), r"shape \(0,\), which holds nothing"),
    "a scalar": (lambda: fit(3.0), r"data of shape \(N\); got shape \(\)"),
    "a tuple of arrays": (lambda: fit((X, X)), "needs one array of data; got a tuple"),
    "an infinite value": (lambda: fit(with_bad(X, np.inf)), "number 2: inf"),
    "a count of -1": (lambda: fit(-COUNTS, POISSON_START, POISSON), "a non-negative whole number"),
    # weights and lengths
    "a data set of a data set": (lambda: fit(Dataset(Dataset(X), weights=X)), "are a data set"),
    "a data set of a data set, by the door": (lambda: jaxem.dataset(Dataset(X)), "are a data set already"),
    "a data set within": (lambda: fit((Dataset(X, weights=X), X)), "a data set within the data"),
    "negative weights": (lambda: fit(Dataset(X, weights=-np.ones(8))), "finite and not negative"),
    "weights of NaN": (lambda: fit(Dataset(X, weights=with_bad(X, np.nan))), "finite and not negative"),
    "weights of zero": (lambda: fit(Dataset(X, weights=np.zeros(8))), "one of them above zero"),
    "too few weights": (lambda: fit(Dataset(X, weights=np.ones(3))), "must share a leading axis|need shape"),
    "weights as texts": (lambda: fit(Dataset(X, weights=["a"] * 8)), "the weights must be numbers"),
    "a length of 0": (lambda: CHAIN.predict(CHAIN_START, Dataset(X[None], lengths=[0])), "whole numbers from 1 to 8"),
    "a length beyond T": (
        lambda: CHAIN.predict(CHAIN_START, Dataset(X[None], lengths=[9])),
        "whole numbers from 1 to 8",
    ),
    "a length of 2.5": (
        lambda: CHAIN.log_prob(CHAIN_START, Dataset(X[None], lengths=[2.5])),
        "whole numbers; they are not",
    ),
    "no sequences": (lambda: fit(jaxem.dataset([])), "holds nothing"),
    "a sequence of texts": (lambda: jaxem.dataset([["a"], ["b", "c"]]), "sequence 0 must be numbers"),
    "a number": (lambda: jaxem.dataset(3, weights=[1]), "share a leading axis"),
    # shapes
    "columns for a column": (lambda: fit(COLUMNS), r"data of shape \(N\); got shape \(8, 3\)"),
    "a start for three columns": (lambda: fit(COLUMNS[:, :1], PLANE_START, PLANE), "components.means of shape"),
    "two of three columns": (lambda: fit(COLUMNS[:, :2], PLANE_START, PLANE), "components.means of shape"),
    "a start for other k": (lambda: fit(X, START, Mixture(Normal(), 3)), r"weights of shape \(3,\)"),
    "predict, one of three": (lambda: PLANE.predict(PLANE_START, COLUMNS[:, :1]), "components.means of shape"),
    "predict_proba, one of three": (lambda: PLANE.predict_proba(PLANE_START, COLUMNS[:, :1]), "components.means"),
    "log_prob, one of three": (lambda: PLANE.log_prob(PLANE_START, COLUMNS[:, :1]), "components.means of shape"),
    "one of three, in a trace": (
        lambda: jax.jit(PLANE.log_likelihood)(PLANE_START, jnp.asarray(COLUMNS[:, :1])),
        "components.means of shape",
    ),
    "one sequence": (lambda: CHAIN.predict(CHAIN_START, X), r"For one sequence x, pass x\[None\]"),
    "factors of fewer columns": (lambda: FACTORS.predict(FACTORS_START, COLUMNS[:, :2]), r"mean of shape \(2,\)"),
    "more factors than columns": (lambda: FactorAnalysis(3).init(KEY, COLUMNS), "use k < 3"),
    "more columns than levels": (
        lambda: Mixture(Categorical((2, 2)), 1).init(KEY, np.zeros((8, 3), int)),
        "D = 2, as its levels are",
    ),
    "a prior of other columns": (
        lambda: fit(
            COLUMNS,
            PLANE_START,
            Mixture(MultivariateNormal("diag", NormalInverseWishart.from_data(COLUMNS[:, :2], 2)), 2),
        ),
        "D = 2, as its prior is",
    ),
    # parameters
    "a complex start": (lambda: fit(X, START._replace(weights=np.array([0.5, 0.5j]))), "weights must be real"),
    "a start of texts": (lambda: fit(X, START._replace(weights=["a", "b"])), "weights must be numbers; got texts"),
    "a start of another structure": (lambda: fit(X, {"a": 1.0}), r"must be MixtureParams\(weights, components\)"),
    "a part of another structure": (lambda: fit(X, START._replace(components=(1.0,))), "at components must be"),
    "no start": (lambda: fit(X, None), "must be MixtureParams.*got None"),
    "a start without numbers": (lambda: user(e_step=max, m_step=max, params=()), "hold no numbers"),
    "a scalar for probabilities": (lambda: fit(X, START._replace(weights=1.0)), "need a last axis"),
    "weights that sum to two": (
        lambda: fit(X, START._replace(weights=[1.0, 1.0])),
        "sum 1 on the last axis; it is not",
    ),
    "a start beyond float32": (
        lambda: fit(np.float32(X), START._replace(components=NormalParams([0, 1e300], [1, 1]))),
        "float32 cannot hold",
    ),
    "the starts for the best": (
        lambda: fit(X, jaxem.fit_restarts(NORMAL, X, key=KEY, restarts=2, max_steps=2)),
        r"give its \.best",
    ),
    # the wrong thing in the wrong place
    "params and data swapped": (lambda: jaxem.fit(NORMAL, X, START), r"always \(model, params, data\)"),
    "model and params swapped": (lambda: jaxem.fit(START, NORMAL, X), r"must be a model; got a MixtureParams"),
    "a class for the model": (lambda: jaxem.fit(Mixture, START, X), "the model is the class Mixture"),
    "a function for the model": (lambda: jaxem.fit(max, START, X), "EM needs e_step"),
    "a lambda for the model": (lambda: jaxem.fit(lambda x: x, START, X), "must be a model"),
    "a class for the family": (lambda: Mixture(Normal, 2), r"it is the class Normal: write Normal\(...\)"),
    "k before the family": (lambda: HMM(2, Normal()), "family must be a family, such as Normal"),
    "k = 2.0": (lambda: Mixture(Normal(), 2.0), "k must be a whole number of at least 1; it is 2.0"),
    "k = True": (lambda: FactorAnalysis(True), "k must be a whole number of at least 1; it is True"),
    "a class for the algorithm": (lambda: fit(algorithm=jaxem.EM), r"it is the class EM: write EM\(...\)"),
    "a text for the algorithm": (lambda: fit(algorithm="EM"), "algorithm must be an algorithm"),
    "a class for the inner one": (lambda: jaxem.SQUAREM(jaxem.EM), r"write EM\(...\)"),
    "a number for the rule": (lambda: fit(stop=1e-3), "stop must be a stopping rule"),
    "a class for the optimiser": (lambda: jaxem.GEM(optimizer=optax.adam), "must be an optax optimiser"),
    # options
    "max_steps = 1.5": (lambda: fit(max_steps=1.5), "max_steps must be a whole number of at least 0; it is 1.5"),
    "max_steps = -1": (lambda: fit(max_steps=-1), "max_steps must be at least 0"),
    "max_steps that is traced": (lambda: jax.jit(lambda n: fit(max_steps=n))(3), "it is traced"),
    "a negative tol": (lambda: fit(tol=-1.0), "tol must be a finite number of at least 0"),
    "a tol of NaN": (lambda: fit(tol=np.nan), "tol must be a finite number"),
    "a text for tol": (lambda: fit(tol="1e-3"), "tol must be a finite number"),
    "a rule's tol": (lambda: jaxem.fitting.aitken(-1e-3), "aitken: tol must be"),
    "a rule of numbers": (lambda: jaxem.fitting.all_of(1e-3), "must be a stopping rule"),
    "a window of 8.0": (lambda: jaxem.fitting.plateau(8.0), "window must be an even number"),
    "block_size = -5": (lambda: jaxem.EM(block_size=-5), "EM: block_size must be at least 1"),
    "block_size = 2.5": (lambda: jaxem.HardEM(block_size=2.5), "HardEM: block_size must be a whole number"),
    "GEM's steps": (lambda: jaxem.GEM(steps=2.5), "GEM: steps must be a whole number"),
    "GEM's gain_tol": (lambda: jaxem.GEM(gain_tol=np.nan), "gain_tol must be a finite number"),
    "SQUAREM's scheme": (lambda: jaxem.SQUAREM(scheme="1"), "scheme must be 1, 2 or 3"),
    "batches of 0.5": (lambda: jaxem.OnlineEM(batch_size=0.5), "batch_size must be a whole number"),
    "samples of None": (lambda: jaxem.MonteCarloEM(n_samples=None), "n_samples must be a whole number"),
    "no key": (lambda: fit(algorithm=jaxem.SAEM()), "draws random numbers: give fit a key"),
    "a key of 0": (lambda: jaxem.fit_restarts(NORMAL, X, key=0), "needs a random key.*it got 0"),
    "keys for a key": (lambda: NORMAL.init(jax.random.split(KEY), X), r"one random key; it got keys of shape \(2,\)"),
    "data for the key": (lambda: NORMAL.init(X, KEY), "needs a random key"),
    "restarts = 0": (lambda: jaxem.fit_restarts(NORMAL, X, key=KEY, restarts=0), "restarts must be at least 1"),
    "restarts = 2.5": (lambda: jaxem.fit_restarts(NORMAL, X, key=KEY, restarts=2.5), "restarts must be a whole number"),
    "a sample of 1.5": (lambda: NORMAL.sample(KEY, START, 1.5), "n must be a whole number"),
    "a sample of -1": (lambda: CHAIN.sample(KEY, CHAIN_START, -1), "n must be at least 0"),
    "probes = 0": (lambda: jaxem.verify(NORMAL, START, X, probes=0), "probes must be at least 1"),
    "a level of 95": (
        lambda: jaxem.inference.confidence_intervals(NORMAL, FIT, X, level=95),
        "between 0 and 1; it is 95",
    ),
    "a level as text": (lambda: jaxem.summary(NORMAL, FIT, X, level="95 %"), "level .* it is '95 %'"),
    "a summary swapped": (lambda: jaxem.summary(FIT, NORMAL, X), "the first argument must be a model"),
    "check of a status": (lambda: jaxem.check(FIT.status), "check: the argument must be a Fit"),
    "replicates = 1": (
        lambda: jaxem.inference.bootstrap(NORMAL, FIT, X, key=KEY, replicates=1),
        "replicates must be at least 2",
    ),
    "folds = 2.5": (
        lambda: jaxem.inference.cross_validate(NORMAL, X, key=KEY, folds=2.5),
        "folds must be a whole number",
    ),
    "a model for models": (lambda: jaxem.select(NORMAL, X, key=KEY), "models must be a list of models"),
    "a criterion of 3": (lambda: jaxem.select([NORMAL], X, key=KEY, criterion=3), "a name or a function"),
    "lanes of unequal columns": (
        lambda: jaxem.fit_many(PLANE, PLANE_START, [COLUMNS, COLUMNS[:4, :2]], params_axis=None),
        "data set 1 has observations of shape",
    ),
    "lanes of starts that are none": (
        lambda: jaxem.fit_many(NORMAL, START, [X, X, X]),
        "3 data sets need a start each",
    ),
    "params_axis = 1": (lambda: jaxem.fit_many(NORMAL, START, [X, X], params_axis=1), "params_axis must be 0"),
    # functions of a user's own
    "no M-step": (lambda: jaxem.core.em_map(E_ONLY, 0.5, X), "em_map needs m_step"),
    "no function": (lambda: jaxem.Model(e_step=3), "Model: e_step must be a function; got 3"),
    "a scalar log-joint": (lambda: user(lambda p, x: p * x), r"must be K numbers.* of shape \(K,\); got shape \(\)"),
    "a log-joint of None": (lambda: user(lambda p, x: None), "must be K numbers"),
    "a log-joint that fails": (lambda: user(lambda p, x: p["a"]), "log_joint.* fails with"),
    "an M-step of None": (
        lambda: user(e_step=lambda p, x: p, m_step=lambda q, x: None),
        "M-step returns another structure.*M-step: nothing",
    ),
    "an M-step of another shape": (
        lambda: user(e_step=lambda p, x: p, m_step=lambda q, x: x),
        r"M-step returns params as float64\[8\]",
    ),
    "a vector for the likelihood": (
        lambda: user(e_step=lambda p, x: p, m_step=lambda q, x: q, log_likelihood=lambda p, x: x * p),
        r"log_likelihood must return one real number.*got shape \(8,\)",
    ),
    "a vector for Q": (
        lambda: user(e_step=lambda p, x: p, q_function=lambda p, q, x: x * p, entropy=lambda q, x: 0.0 * q),
        "q_function must return one real number",
    ),
    "a prior of None": (
        lambda: user(
            e_step=lambda p, x: p,
            m_step=lambda q, x: q,
            log_likelihood=lambda p, x: -(p**2),
            log_prior=lambda p: None,
        ),
        "log_prior must return one real number",
    ),
    "an M-step with an if": (
        lambda: user(e_step=lambda p, x: p, m_step=lambda q, x: q if q > 0 else -q),
        "looks at values while it is traced",
    ),
    "an E-step in NumPy": (
        lambda: user(e_step=lambda p, x: np.sin(p), m_step=max),
        "looks at values while it is traced",
    ),
    "degenerate, of each class": (
        lambda: user(e_step=lambda p, x: p, m_step=lambda q, x: q, degenerate=lambda p: jnp.ones(3) > 2),
        "degenerate must return one truth value",
    ),
    "a class for the constraints": (
        lambda: jaxem.from_log_joint(lambda p, x: x, constraints=jaxem.Positive),
        r"constraints must be spaces.*the class Positive: write Positive\(\)",
    ),
    "a text for the constraints": (lambda: jaxem.Model(constraints={"a": "positive"}), "constraints must be spaces"),
    "another q": (lambda: jaxem.core.elbo(NORMAL, START, None, X), "q must be what the E-step returns"),
    "a list for the covariance": (lambda: MultivariateNormal(["full"]), "covariance must be one of"),
    "a class for the prior": (lambda: MultivariateNormal("full", NormalInverseWishart), "prior must be a NormalInv"),
    "a number for the levels": (lambda: Categorical(3), "levels must be a tuple"),
    "levels of 2.5": (lambda: Categorical((2.5,)), "each of the levels must be a whole number"),
    "a prior from texts": (lambda: NormalInverseWishart.from_data("a", 2), "from_data: x must be numbers"),
    "a start from a list": (lambda: NORMAL.init(KEY, X, ["points"]), "start must be numbers; got texts"),
    "a list of classes": (lambda: jaxem.select([Mixture], X, key=KEY), "the model is the class Mixture"),
    "strict = 1": (lambda: jaxem.verify(NORMAL, START, X, strict=1), "strict must be True or False"),
    "grad of what is closed over": (lambda: jax.grad(closes_over)(0.5), "make it a leaf of the model"),
    "the same, forward": (lambda: jax.jacfwd(climbs_over)(0.5), "make it a leaf of the model"),
    "the same, by ascent": (lambda: jax.grad(climbs_over)(0.5), "make it a leaf of the model"),
    "the same, compiled": (lambda: jax.grad(jax.jit(closes_over))(0.5), "make it a leaf of the model"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_refused_by_one_sentence(call):
    function, says = REFUSED[call]
    with pytest.raises(ValueError, match=says) as caught:
        function()
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert len(message) < 400 and "\n" not in message
    assert not any(word in message for word in ("Traceback", "jax.errors", "abstract", "tracer"))


def _same(found, wanted=FIT):
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    return found.status == Status.CONVERGED


ANSWERED = {
    "a list": lambda: _same(fit(list(X))),
    "a data frame": lambda: _same(fit(Frame(X))),
    "objects": lambda: _same(fit(X.astype(object))),
    "decimals and fractions": lambda: _same(
        fit([decimal.Decimal("0.5"), Fraction(1, 2), 1, 2, 3.5, 5, 6, 7]), fit([0.5, 0.5, 1, 2, 3.5, 5, 6, 7])
    ),
    "the other byte order": lambda: _same(fit(X.astype(">f8"))),
    "long doubles": lambda: _same(fit(X.astype(np.longdouble))),
    "a masked array without a mask": lambda: _same(fit(np.ma.array(X))),
    "half precision": lambda: _same(fit(X.astype(np.float16)), fit(X.astype(np.float16).astype(np.float32))),
    "bfloat16": lambda: _same(fit(jnp.asarray(X, jnp.bfloat16)), fit(X.astype(jnp.bfloat16).astype(np.float32))),
    "weights as a list of whole numbers": lambda: _same(fit(Dataset(X, weights=[1] * 8))),
    "weights as booleans": lambda: _same(fit(Dataset(X, weights=[True] * 8))),
    "lists for a start": lambda: _same(fit(X, MixtureParams([0.5, 0.5], NormalParams([0, 5], [1, 1])))),
    "a fit for a start": lambda: fit(X, FIT).status == Status.CONVERGED,
    "a fit for params": lambda: (NORMAL.predict(FIT, X) == NORMAL.predict(FIT.params, X)).all(),
    "a fit to sample from": lambda: NORMAL.sample(KEY, FIT, 3).shape == (3,),
    "k of NumPy": lambda: Mixture(Normal(), np.int64(2)) == NORMAL,
    "lists to predict": lambda: (NORMAL.predict(START, [0.0, 5.0]) == np.array([0, 1])).all(),
    "lists of lists to predict": lambda: PLANE.predict(PLANE_START, COLUMNS.tolist()).shape == (8,),
    "counts as booleans": lambda: _same(
        fit(COUNTS > 2, POISSON_START, POISSON), fit((COUNTS > 2).astype(float), POISSON_START, POISSON)
    ),
    "an older kind of key": lambda: NORMAL.init(jax.random.PRNGKey(0), X).weights.shape == (2,),
}


@pytest.mark.parametrize("call", ANSWERED)
@pytest.mark.slow
def test_answered(call):
    assert ANSWERED[call]()


@jax.jit
def _all_of(model, params, data):
    q = model.e_step(params, data)
    return model.log_likelihood(params, data), model.m_step(q, data), model.predict(params, data)


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (Mixture(Normal(), 2), 0),
        (POISSON, 0),
        (Mixture(Exponential(), 2), 0),
        (Mixture(Bernoulli(), 2), 1),
        (Mixture(Categorical((256, 300)), 2), 2),
        (HMM(Poisson(), 2), 0),
        (FACTORS, 3),
        (Mixture(MultivariateNormal("spherical"), 2), 2),
    ],
    ids=lambda one: describe(one)[:30] if hasattr(one, "k") else "",
)
@pytest.mark.slow
def test_whole_numbers_are_the_numbers_that_they_are(model, columns):
    """Nothing but the data has the data's dtype: every model says of them what it says of floats."""
    table = np.stack([COUNTS, COUNTS[::-1], (3 * COUNTS) % 7], axis=1)[:, :columns] if columns > 1 else COUNTS
    for kind in ("bool", "uint8"):
        if kind == "bool" and columns > 1:
            continue  # columns of zeros and ones are collinear
        data = np.array(table > 2 if kind == "bool" else table, kind)
        data = data[:, None] > 2 if columns == 1 else data[None] if isinstance(model, HMM) else data
        floats = data.astype(np.float64)
        params = model.init(KEY, floats)
        for a, b in zip(
            jax.tree.leaves(_all_of(model, params, jnp.asarray(data))),
            jax.tree.leaves(_all_of(model, params, jnp.asarray(floats))),
            strict=True,
        ):
            assert a.dtype == b.dtype and jnp.isfinite(b).all()
            np.testing.assert_allclose(a, b, rtol=1e-12)
        for a, b in zip(jax.tree.leaves(model.init(KEY, data)), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(a, b)


# After the fit: rows that have no answer


@pytest.mark.slow
def test_a_row_without_an_answer_leaves_the_others_alone():
    for model, params, x, bad in [
        (NORMAL, START, X, np.nan),
        (POISSON, POISSON_START, COUNTS.astype(float), np.nan),
        (POISSON, POISSON_START, COUNTS.astype(float), -1.0),
        (PLANE, PLANE_START, COLUMNS, np.nan),
    ]:
        broken = with_bad(x, bad)
        labels, shares = model.predict(params, broken), model.predict_proba(params, broken)
        densities = model.log_prob(params, broken)
        others = np.arange(8) != 2
        assert labels[2] == -1 and jnp.isnan(shares[2]).all()
        assert jnp.isnan(densities[2]) if np.isnan(bad) else densities[2] == -jnp.inf
        np.testing.assert_array_equal(labels[others], model.predict(params, x)[others])
        np.testing.assert_array_equal(shares[others], model.predict_proba(params, x)[others])
        np.testing.assert_array_equal(densities[others], model.log_prob(params, x)[others])


@pytest.mark.slow
def test_a_sequence_without_an_answer_leaves_the_others_alone():
    x = np.stack([X, X, X])
    x[1, 2], x[2, 6] = np.nan, np.nan
    data = Dataset(x, lengths=[8, 8, 5])  # the last NaN lies behind the end
    path, shares, densities = (f(CHAIN_START, data) for f in (CHAIN.predict, CHAIN.predict_proba, CHAIN.log_prob))
    assert (path[1] == -1).all() and jnp.isnan(shares[1]).all() and jnp.isnan(densities[1])
    np.testing.assert_array_equal(path[2, :5] >= 0, True)
    assert jnp.isfinite(shares[2]).all() and jnp.isfinite(densities[jnp.array([0, 2])]).all()
    np.testing.assert_array_equal(path[0], CHAIN.predict(CHAIN_START, X[None])[0])
    impossible = CHAIN_START._replace(initial=jnp.array([1.0, 0.0]), transition=jnp.eye(2))
    poisson = HMM(Poisson(), 2)
    never = poisson.init(KEY, COUNTS[None])._replace(initial=impossible.initial, transition=impossible.transition)
    never = never._replace(emissions=never.emissions._replace(rates=jnp.array([0.0, 3.0])))
    assert (poisson.predict(never, COUNTS[None]) == -1).all()
    assert jnp.isnan(poisson.predict_proba(never, COUNTS[None])).all()
    assert poisson.log_prob(never, COUNTS[None])[0] == -jnp.inf


# In a trace: a status, or no answer


@jax.jit
def _fit(model, params, data):
    return jaxem.fit(model, params, data, max_steps=3)


_WEIGHTS = np.array([np.ones(8), -np.ones(8), with_bad(np.ones(8), np.nan), np.zeros(8), with_bad(np.ones(8), -1)])


@pytest.mark.slow
def test_bad_weights_in_a_trace():
    start = jax.tree.map(jnp.asarray, START)
    lanes = jax.vmap(lambda w: _fit(NORMAL, start, Dataset(jnp.asarray(X), weights=w)))(jnp.asarray(_WEIGHTS))
    assert lanes.status[0] != Status.INVALID and (lanes.status[1:] == Status.INVALID).all()
    np.testing.assert_array_equal(lanes.params.weights[1:], 0.5)
    likelihoods = jax.vmap(lambda w: NORMAL.log_likelihood(start, Dataset(jnp.asarray(X), weights=w)))(
        jnp.asarray(_WEIGHTS)
    )
    assert jnp.isnan(likelihoods[jnp.array([1, 2, 4])]).all() and jnp.isfinite(likelihoods[0])
    with pytest.raises(jaxem.FitError, match=r"INVALID in lane\(s\) 1, 2, 3, 4: the data or the start"):
        jaxem.check(lanes)


@pytest.mark.slow
def test_bad_lengths_in_a_trace():
    lengths = jnp.array([[8, 3], [0, 8], [-3, 8], [9, 8]])
    x = jnp.asarray(np.stack([X, X]))
    lanes = jax.vmap(lambda n: _fit(CHAIN, CHAIN_START, Dataset(x, lengths=n)))(lengths)
    assert lanes.status[0] != Status.INVALID and (lanes.status[1:] == Status.INVALID).all()
    densities = jax.vmap(lambda n: CHAIN.log_prob(CHAIN_START, Dataset(x, lengths=n)))(lengths)
    assert (
        jnp.isnan(densities[1:, 0]).all() and jnp.isfinite(densities[:, 1]).all() and jnp.isfinite(densities[0]).all()
    )
    paths = jax.vmap(lambda n: CHAIN.predict(CHAIN_START, Dataset(x, lengths=n)))(lengths)
    assert (paths[1:, 0] == -1).all() and (paths[0, 0] >= 0).all()


def test_bad_starts_and_values_in_a_trace():
    start = jax.tree.map(jnp.asarray, START)
    outside = start._replace(weights=jnp.array([0.7, 0.7]))
    negative = start._replace(components=NormalParams(start.components.means, jnp.array([-1.0, 1.0])))
    for params, x in (outside, X), (negative, X), (start, with_bad(X, np.nan)), (start, with_bad(X, np.inf)):
        assert _fit(NORMAL, params, jnp.asarray(x)).status == Status.INVALID
    assert _fit(NORMAL, start, Dataset(jnp.asarray(with_bad(X, np.nan)), weights=jnp.ones(8).at[2].set(0))).status != (
        Status.INVALID
    )


# Records that hold arrays


def test_models_with_priors_are_equal_where_their_arrays_are():
    def model(shift):
        prior = NormalInverseWishart.from_data(COLUMNS + shift, 2)
        return Mixture(MultivariateNormal("full", prior), 2)

    assert model(0) == model(0) and hash(model(0)) == hash(model(0)) and len({model(0), model(0)}) == 1
    assert model(0) != model(1) and model(0) != Mixture(MultivariateNormal("full"), 2) and model(0) != 3
    assert Dataset(X, weights=X) == Dataset(X.copy(), weights=X) and Dataset(X, weights=X) != Dataset(X, weights=X + 1)
    nan = with_bad(X, np.nan)
    assert Dataset(nan, weights=X) == Dataset(nan.copy(), weights=X) and Dataset(nan, weights=X) != Dataset(
        X, weights=X
    )
    assert Dataset(X, weights=X) != Dataset(np.float32(X), weights=X)
    assert FIT == FIT and {FIT: 1}[FIT] == 1
    jax.jit(lambda one: _compared(one))(model(0))


def _compared(one):
    assert one == one and one != Mixture(Normal(), 2)
    return 0


# Precisions


@pytest.mark.slow
def test_a_result_of_32_bits_starts_a_fit_of_64():
    single = Mixture(Normal(), 3)
    start = MixtureParams(np.float32([0.1, 0.2, 0.7]), NormalParams(np.float32([0, 1, 5]), np.float32([1, 1, 1])))
    assert abs(start.weights.astype(float).sum() - 1) > 1e-9  # to the eye of 64 bits it sums to something else
    found = jaxem.fit(single, start, X, max_steps=0).params
    assert found.weights.dtype == np.float64 and abs(float(found.weights.sum()) - 1) < 1e-15
    matrix = np.float32([[1.0, 0.3], [0.3 + 1e-7, 0.5]])
    plane = PLANE_START._replace(components=type(PLANE_START.components)(np.zeros((2, 2)), np.stack([matrix, matrix])))
    both = jaxem.fit(Mixture(MultivariateNormal(), 2), plane, COLUMNS[:, :2], max_steps=0).params.components.covariances
    np.testing.assert_array_equal(both, np.swapaxes(both, 1, 2))
    with pytest.raises(ValueError, match="sum 1"):  # what was typed in 64 bits is held to them
        jaxem.fit(single, start._replace(weights=np.float64(start.weights) + 1e-6), X)
    back = jax.tree.map(np.float64, jaxem.fit(single, start, X, max_steps=2).params)
    assert jaxem.fit(single, back, np.float32(X), max_steps=0).params.weights.dtype == np.float32


def test_levels_beyond_the_range_of_the_codes():
    family = Categorical((256, 300))  # no uint8 holds 256
    codes = jnp.array([[255, 0], [0, 255]], jnp.uint8)
    params = family.maximize(None, family.statistics(None, jnp.ones((2, 1)), (), codes))
    assert family.supports(codes).all()
    np.testing.assert_allclose(log_density(family, params, codes)[:, 0], 2 * np.log(0.5))
