"""The hidden Markov models of ``jaxem.sklearn`` against hmmlearn, and as estimators of scikit-learn."""

import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hmmlearn.hmm as peers
import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from closeness import assert_within, eps
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from jaxem.fitting import effort
from jaxem.sklearn import GMMHMM, CategoricalHMM, GaussianHMM, MultinomialHMM, PoissonHMM

RNG = np.random.default_rng(0)
LENGTHS = [40, 7, 33]
N = sum(LENGTHS)
PLACE = np.repeat(RNG.integers(0, 3, N // 5), 5)[:, None] * 3.0
NORMAL = RNG.normal(size=(N, 2)) + PLACE
COUNTS = RNG.poisson(PLACE + np.array([1.0, 2.0]))
CODES = RNG.integers(0, 2, (N, 1)) + (PLACE > 2)
START, MOVES = np.array([0.2, 0.3, 0.5]), np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
MEANS = np.array([[0.5, -0.5], [3.0, 4.0], [5.0, 7.0]])
FULL = np.array([[[1.5, 0.3], [0.3, 2.0]], [[2.0, -0.5], [-0.5, 1.5]], [[1.0, 0.0], [0.0, 1.0]]])
COVARS = {
    "full": FULL,
    "tied": FULL[0],
    "diag": np.array([[1.5, 2.0], [2.0, 1.5], [1.0, 0.5]]),
    "spherical": np.ones(3),
}
SHARP = {"startprob_prior": np.array([2.0, 1.0, 1.5]), "transmat_prior": np.array([[3.0, 1.0, 1.0]])}
# By name: the class, data, its arguments, and the attributes of the emissions.
CASES: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "codes": (CategoricalHMM, CODES, {"emissionprob_prior": 1.5}, {"emissionprob_": np.array([[0.6, 0.3, 0.1]] * 3)}),
    "counts": (PoissonHMM, COUNTS, {}, {"lambdas_": np.array([[1.0, 2.0], [4.0, 4.0], [7.0, 9.0]])}),
}
CASES["codes"][3]["emissionprob_"] = np.array([[0.6, 0.3, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
for kind in COVARS:
    how = {
        "covariance_type": kind,
        "covars_weight": 4.0,
        "covars_prior": 0.5,
        "means_weight": 0.3,
        "means_prior": MEANS - 1,
    }
    CASES[kind] = GaussianHMM, NORMAL, how, {"means_": MEANS, "covars_": COVARS[kind]}
CASES["multinomial"] = (
    MultinomialHMM,
    RNG.multinomial(6, [0.2, 0.3, 0.5], N),
    {"n_trials": 6},
    {"emissionprob_": CASES["codes"][3]["emissionprob_"]},
)
# One of each kind of M-step; the others with --everything.
OFTEN = ("full", "codes")


def pair(name: str, **options: Any) -> tuple[Any, Any, Any]:
    """Our estimator and hmmlearn's, with the same parameters, and data."""
    own, x, how, emissions = CASES[name]
    both = [cls(3, init_params="", **how, **SHARP, **options) for cls in (own, getattr(peers, own.__name__))]
    for model in both:
        model.startprob_, model.transmat_ = START.copy(), MOVES.copy()
        for attribute, value in emissions.items():
            setattr(model, attribute, value.copy())
    return (*both, x)


def quiet(model: Any, *arguments: Any) -> Any:
    """The fit of a model that takes one step, without the warning that it has not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*arguments)


def compact(model: Any, name: str) -> np.ndarray:
    """An attribute; variances of hmmlearn's spherical covariances are repeated for each column."""
    found = np.asarray(getattr(model, name))
    spherical = getattr(model, "covariance_type", "") == "spherical"
    return found.reshape(3, -1)[:, 0] if name == "_covars_" and spherical else found


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.everything) for name in CASES]
)
@pytest.mark.slow
def test_results_and_one_step_are_those_of_hmmlearn(name):
    own, peer, x = pair(name, n_iter=1)
    # Terms of this size are added up over the steps; hmmlearn takes logs of sums, which cost some more eps.
    size = 16 * eps(np.float64) * abs(peer.score(x, LENGTHS)) * 8
    score, posterior = own.score_samples(x, LENGTHS)
    assert_within(score, peer.score(x, LENGTHS), size)
    assert_within(posterior, peer.predict_proba(x, LENGTHS), size)
    for algorithm in ("viterbi", "map"):
        (value, states), (wanted, path) = (model.decode(x, LENGTHS, algorithm) for model in (own, peer))
        assert_within(value, wanted, size)
        np.testing.assert_array_equal(states, path)
    np.testing.assert_array_equal(own.predict(x, LENGTHS), own.decode(x, LENGTHS)[1])
    if name != "codes":
        assert_within(
            [own.bic(x, LENGTHS), own.aic(x, LENGTHS)], [peer.bic(x, LENGTHS), peer.aic(x, LENGTHS)], 2 * size
        )
    quiet(own, x, LENGTHS)
    peer.fit(x, LENGTHS)
    for attribute in own._letters.values():
        found, wanted = compact(own, attribute), compact(peer, attribute)
        assert_within(found, wanted, size * max(np.abs(wanted).max(), 1))


# hmmlearn is wrong where covariances are fitted and means are held: it leaves out the sums that they need.
HELD = [("stm", "full"), ("mc", "full"), ("te", "codes"), ("sl", "counts"), ("m", "tied"), ("e", "multinomial")]


@pytest.mark.parametrize(
    ("letters", "name"), [HELD[0], *(pytest.param(*case, marks=pytest.mark.everything) for case in HELD[1:])]
)
@pytest.mark.slow
def test_what_params_leaves_out_is_held_and_zeros_stay(letters, name):
    own, peer, x = pair(name, n_iter=1, params=letters)
    for model in (own, peer):
        model.startprob_ = np.array([0.0, 0.4, 0.6])
        model.transmat_ = np.array([[0.8, 0.2, 0.0], [0.3, 0.4, 0.3], [0.0, 0.5, 0.5]])
        quiet(model, x, LENGTHS)
    assert own.startprob_[0] == own.transmat_[0, 2] == own.transmat_[2, 0] == 0
    for attribute in own._letters.values():
        found, wanted = compact(own, attribute), compact(peer, attribute)
        assert_within(found, wanted, 1e-12 * max(np.abs(wanted).max(), 1))


@pytest.mark.everything
@pytest.mark.parametrize("kind", COVARS)
def test_covariances_about_means_that_are_held(kind):
    own, _, x = pair(kind, n_iter=1, params="c")
    r, full, held = own.predict_proba(x, LENGTHS), kind in ("full", "tied"), MEANS
    quiet(own, x, LENGTHS)
    np.testing.assert_array_equal(own.means_, held)
    np.testing.assert_array_equal(own.transmat_, MOVES)
    apart = x[:, None] - held[None]
    scatter = np.einsum("nk,nki,nkj->kij", r, apart, apart) + 0.3 * np.ones((1, 2, 2)) + 0.5
    n, weight = r.sum(axis=0), 4.0 - (2 if full else 1)
    if kind == "tied":
        scatter = scatter.sum(axis=0) - 2 * 0.5  # one prior matrix for all
        wanted = scatter / (n.sum() + weight)
    else:
        wanted = scatter / (n + weight)[:, None, None]
        wanted = wanted if full else np.diagonal(wanted, axis1=1, axis2=2)
        wanted = wanted.mean(axis=1) if kind == "spherical" else wanted
    assert_within(own._covars_, wanted, 1e-13 * wanted.max())


def fitted() -> GaussianHMM:
    return GaussianHMM(2, random_state=0).fit(frame(), LENGTHS)


def frame() -> pd.DataFrame:
    return pd.DataFrame(NORMAL, columns=["left", "right"])


@pytest.mark.slow
def test_conventions_of_scikit_learn(count_compilations):
    model = fitted()
    assert model.converged_ and model.monitor_.converged
    np.testing.assert_array_equal(model.feature_names_in_, ["left", "right"])
    trace = np.array(model.monitor_.history)
    assert (np.diff(trace) >= -1e-9).all() and len(trace) == model.n_iter_ + 1
    copied = clone(model)
    assert not hasattr(copied, "means_") and copied.get_params() == model.get_params()
    again = fitted()
    np.testing.assert_array_equal(again.means_, model.means_)  # the same seed, the same fit
    kept = dict(model.__dict__)
    score, states = model.score(frame(), LENGTHS), model.predict(frame(), LENGTHS)
    for lengths in (None, LENGTHS):  # one sequence, and several
        for found in (model.predict_proba(frame(), lengths), model.predict(frame(), lengths)):
            assert len(found) == N and found.flags.writeable
    assert model.__dict__.keys() == kept.keys()
    with jax.enable_x64(False):
        other = pickle.loads(pickle.dumps(model))
        assert other.means_.dtype == np.float64
        assert other.score(frame(), LENGTHS) == score
        np.testing.assert_array_equal(other.predict(pl.from_pandas(frame()), LENGTHS), states)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame().rename(columns={"left": "middle"}))
    model.predict(frame()[:70])
    with count_compilations() as compiled:
        assert all(model.predict(frame()[:n]).shape == (n,) for n in (66, 75, 80))
    assert not set(compiled.names) - {"jit(stage)"}  # another length compiles nothing
    x, path = model.sample(30, currstate=1)
    assert x.shape == (30, 2) and path.shape == (30,) and path[0] == 1
    np.testing.assert_array_equal(model.sample(30, random_state=1)[0], model.sample(30, random_state=1)[0])
    pi = model.get_stationary_distribution()
    assert_within(pi @ model.transmat_, pi, 4 * eps(np.float64))
    # A fitted model has no new letters to initialise: it goes on from where it is.
    model.set_params(init_params="", n_iter=0).fit(frame(), LENGTHS)
    np.testing.assert_array_equal(again.means_, model.means_)


@pytest.mark.slow
def test_results_are_those_of_the_attributes_as_they_are():
    """Set anew, changed in place, or of another type since the last result."""
    model = GaussianHMM(2, random_state=0).fit(NORMAL, LENGTHS)
    model.score(NORMAL, LENGTHS)
    for change in (
        lambda: model.means_.__iadd__(1.0),
        lambda: setattr(model, "startprob_", np.array([0.25, 0.75])),
        lambda: model.set_params(covariance_type="full").__setattr__("covars_", FULL[:2]),
    ):
        change()
        fresh = GaussianHMM(2, covariance_type=model.covariance_type)
        for name in model._letters.values():
            setattr(fresh, name, getattr(model, name).copy())
        fresh.n_features_in_ = 2
        assert model.score(NORMAL, LENGTHS) == fresh.score(NORMAL, LENGTHS)
        np.testing.assert_array_equal(model.predict_proba(NORMAL, LENGTHS), fresh.predict_proba(NORMAL, LENGTHS))
    model.transmat_[0] = 2.0
    with pytest.raises(ValueError, match="transmat_ must be probabilities"):
        model.predict(NORMAL, LENGTHS)


@pytest.mark.slow
def test_gaps_are_left_out_of_everything():
    """Against sums over all paths, with a density of the cells that are seen."""
    own, _, x = pair("diag")
    x = x[:4].copy()
    x[1], x[2, 0] = np.nan, np.nan
    found, posterior = own.score(x), own.predict_proba(x)
    variances = COVARS["diag"]
    each = -0.5 * (np.log(2 * np.pi * variances) + (x[:, None] - MEANS[None]) ** 2 / variances)
    b = np.exp(np.nansum(each, axis=2))
    paths = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij")).reshape(4, -1)
    p = START[paths[0]] * MOVES[paths[:-1], paths[1:]].prod(axis=0) * b[np.arange(4)[:, None], paths].prod(axis=0)
    assert_within(found, np.log(p.sum()), 1e-13)
    wanted = np.stack([(p[None] * (paths == k)).sum(axis=1) for k in range(3)], axis=1) / p.sum()
    assert_within(posterior, wanted, 1e-13)
    value, states = own.decode(x)
    assert_within(value, np.log(p.max()), 1e-13)
    np.testing.assert_array_equal(states, paths[:, p.argmax()])


REFUSED = [
    ({"startprob_prior": 0.5}, "startprob_prior must be at least 1"),
    ({"transmat_prior": np.ones(4)}, "transmat_prior must be finite numbers that broadcast"),
    ({"covars_prior": -1.0}, "covars_prior"),
    ({"covars_weight": np.ones(2)}, "covars_weight must be a number"),
    ({"means_weight": -1.0}, "means_weight must be at least 0"),
    ({"means_prior": np.ones(3)}, "means_prior must be finite numbers that broadcast"),
    ({"params": "stmx"}, "params may hold the letters"),
    ({"algorithm": "best"}, "'algorithm' parameter"),
    ({"covariance_type": "round"}, "'covariance_type' parameter"),
    ({"n_init": 0}, "'n_init' parameter"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianHMM(2, **options).fit(NORMAL)


def test_wrong_data_and_parameters_are_refused():
    model = GaussianHMM(2)
    for lengths in ([3, 4], [N + 1], [0, N], np.full(N, 1 / N)):
        with pytest.raises(ValueError, match="lengths"):
            model.fit(NORMAL, lengths)
    with pytest.raises(ValueError, match="unbounded at 0 or improper"):
        PoissonHMM(2, lambdas_prior=0.5, lambdas_weight=1.0).fit(COUNTS)
    with pytest.raises(ValueError, match="the same for all states"):
        CategoricalHMM(2, emissionprob_prior=np.array([[1.0], [2.0]])).fit(CODES)
    with pytest.raises(ValueError, match="integers"):
        CategoricalHMM(2).fit(CODES + 0.5)
    with pytest.raises(ValueError, match="Largest symbol"):
        CategoricalHMM(2, n_features=2).fit(CODES)
    with pytest.raises(ValueError, match="one column"):
        CategoricalHMM(2).fit(np.hstack([CODES, CODES]))
    with pytest.raises(AttributeError, match="cannot be set"):
        model.monitor_ = None
    own, _, x = pair("full")
    for attribute, wrong in {"startprob_": [0.5, 0.5], "transmat_": 2 * MOVES, "means_": MEANS[:2]}.items():
        kept = getattr(own, attribute)
        setattr(own, attribute, wrong)
        with pytest.raises(ValueError, match=attribute):
            own.score(x)
        setattr(own, attribute, kept)
    with pytest.raises(ValueError, match="positive-definite"):
        own.covars_ = -FULL


class AsEstimator:
    """With y in second place, where scikit-learn's checks pass it; hmmlearn has the lengths there.

    The numbers of the checks are rounded down where only whole ones are data, and codes are the least of each row.
    """

    def fit(self: Any, X: Any, y: Any = None, lengths: Any = None) -> Any:
        return super().fit(X, lengths)  # pyright: ignore[reportAttributeAccessIssue]

    def score(self: Any, X: Any, y: Any = None, lengths: Any = None) -> float:
        return super().score(X, lengths)  # pyright: ignore[reportAttributeAccessIssue]

    def _matrix(self: Any, X: Any, reset: bool, **options: Any) -> Any:
        X = super()._matrix(X, reset, **options)  # pyright: ignore[reportAttributeAccessIssue]
        if not self._of_counts:
            return X
        X = np.floor(4 * (X.min(axis=1, keepdims=True) if isinstance(self, CategoricalHMM) else X))
        return X if np.isnan(X).any() else X.astype(int)


class AsGaussianHMM(AsEstimator, GaussianHMM):
    __init__ = GaussianHMM.__init__


class AsCategoricalHMM(AsEstimator, CategoricalHMM):
    __init__ = CategoricalHMM.__init__


class AsPoissonHMM(AsEstimator, PoissonHMM):
    __init__ = PoissonHMM.__init__


class AsMultinomialHMM(AsEstimator, MultinomialHMM):
    __init__ = MultinomialHMM.__init__


class AsGMMHMM(AsEstimator, GMMHMM):
    __init__ = GMMHMM.__init__


# What is one sequence for us are exchangeable rows for these checks, and score_samples returns a pair, as hmmlearn's.
SEQUENTIAL = dict.fromkeys(
    ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
    "rows are steps of a sequence, so that each answer depends on all of them",
)


@pytest.mark.everything
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", AsEstimator.__subclasses__())
def test_checks_of_scikit_learn(kind):
    # One check has whole numbers, of which a column of one state may be constant.
    prior = {"covars_prior": 0.1, "covars_weight": 0.01} if kind is AsGMMHMM else {}
    with effort("quick"):
        found = check_estimator(kind(2, **prior), expected_failed_checks=SEQUENTIAL, on_fail="raise")
    assert sum(check["status"] == "passed" for check in found) >= 37
    assert {check["check_name"] for check in found if check["status"] == "xfail"} == set(SEQUENTIAL)


@pytest.mark.everything
@pytest.mark.parametrize("kind", COVARS)
def test_mixtures_as_emissions(kind):
    """Results at the fitted parameters are those of hmmlearn, of which this is a fixed point."""
    model = GMMHMM(2, 2, covariance_type=kind, random_state=0, tol=1e-8, n_init=2, min_covar=0.1).fit(NORMAL, LENGTHS)
    peer = peers.GMMHMM(2, 2, covariance_type=kind, init_params="", n_iter=1)
    for name in model._letters.values():
        setattr(peer, name, getattr(model, name))
    peer.n_features = 2
    size = 128 * eps(np.float64) * abs(model.score(NORMAL, LENGTHS))
    assert_within(model.score(NORMAL, LENGTHS), peer.score(NORMAL, LENGTHS), size)
    assert_within(model.predict_proba(NORMAL, LENGTHS), peer.predict_proba(NORMAL, LENGTHS), size)
    (value, states), (wanted, path) = (each.decode(NORMAL, LENGTHS) for each in (model, peer))
    assert_within(value, wanted, size)
    np.testing.assert_array_equal(states, path)
    before = peer.score(NORMAL, LENGTHS)
    if kind != "spherical":  # whose default prior in hmmlearn is not flat
        peer.fit(NORMAL, LENGTHS)
        assert peer.score(NORMAL, LENGTHS) < before + 1e-5
    x, states = model.sample(20)
    assert x.shape == (20, 2) and states.shape == (20,)


@pytest.mark.parametrize("kind", COVARS)
def test_mixtures_start_from_k_means_within_k_means(kind):
    """Four groups far apart, two of them for each state; then a state of one repeated row."""
    groups = np.array([[-41.0, 0.0], [-39.0, 0.0], [39.0, 0.0], [41.0, 0.0]])
    X = (groups[:, None] + 0.01 * np.random.default_rng(3).normal(size=(4, 9, 2))).reshape(-1, 2)
    X[3], X[5, 1] = np.nan, np.nan
    model = GMMHMM(2, 2, covariance_type=kind, random_state=1)
    model._init(X)
    means = np.sort(model.means_[:, :, 0].ravel())
    np.testing.assert_allclose(means, groups[:, 0], atol=0.02)
    assert all(abs(pair[0] - pair[1]) < 3 for pair in model.means_[:, :, 0])
    rows = np.delete(np.where(np.isnan(X), np.nanmean(X, axis=0), X), 3, axis=0)
    wanted = np.cov(rows.T, bias=True)
    found = {
        "full": lambda c: c[0, 1],
        "tied": lambda c: c[1],
        "diag": lambda c: np.diag(c[1, 0]),
        "spherical": lambda c: c[0, 0] * np.eye(2),
    }[kind](model.covars_) - 1e-3 * np.eye(2)
    diagonal = np.diag(np.diag(wanted))
    whole = {"full": wanted, "tied": wanted, "diag": diagonal, "spherical": diagonal.trace() / 2 * np.eye(2)}[kind]
    np.testing.assert_allclose(found, whole, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(model.weights_, 0.5)
    few = np.concatenate([X[4:], np.full((6, 2), 500.0)])
    model = GMMHMM(2, 2, covariance_type=kind, random_state=1)
    model._init(few)
    apart = np.abs(np.diff(model.means_[:, :, 0], axis=1)).min()
    assert np.isfinite(model.means_).all() and apart > 0


# What hmmlearn's own tests ask beyond what we have.
LEFT_OUT = {
    r"test_underflow_from_scaling\[scaling\]": "asserts that the scaled recursions underflow; ours turn to logs",
    r"test__check_and_set_multinomial_n_features_n_trials": "asserts that a fit overwrites the argument n_trials",
    r"HMMWithFullCovars::test_fit_(sequences_of_different_length|with_length_one_signal|zero_variance)": (
        "twelve rows for three states, or a constant column: the likelihood is unbounded, and ours raises ValueError"
    ),
    r"HMMWith.*::test_fit_left_right": (
        "nineteen rows for three states, from a start that is not seeded: from some the last state empties, and ours "
        "raises ValueError"
    ),
    r"GMMHMMWithFullCovars::test_criterion": (
        "five states of two components for data of three: one component empties, and ours raises ValueError"
    ),
}


@pytest.mark.everything
@pytest.mark.parametrize("file", ["categorical_hmm", "poisson_hmm", "multinomial_hmm", "gaussian_hmm", "gmm_hmm_new"])
def test_hmmlearn_s_own_tests(file, tmp_path):
    found = run_suite(Path(peers.__file__).parent / "tests" / f"test_{file}.py", tmp_path)
    failed = [line for line in found.splitlines() if line.startswith("FAILED")]
    unexpected = [line for line in failed if not any(re.search(name, line) for name in LEFT_OUT)]
    assert not unexpected and " passed" in found, found[-4000:]


def run_suite(file: Path, where: Path) -> str:
    """The report of pytest on a file of hmmlearn's, in which hmmlearn's classes are ours."""
    here = Path(__file__).parent
    options = [
        "-q",
        "-p",
        "hmmlearn_suite",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "-c",
        os.devnull,
        f"--rootdir={where}",
    ]
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        env=os.environ | {"PYTHONPATH": path, "HMMLEARN_SEED": "0"},
        capture_output=True,
        text=True,
        cwd=where,
        check=False,
    )
    return ran.stdout
