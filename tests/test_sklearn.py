"""Estimators: against scikit-learn and by hand, tables in and out, precision, pipelines, what they refuse."""

import pickle
import warnings
from typing import Any

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import stats
from sklearn import mixture as theirs
from sklearn.base import clone
from sklearn.decomposition import FactorAnalysis as TheirFactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import jaxem
from jaxem import families
from jaxem.sklearn import (
    FactorAnalysis,
    GaussianMixture,
    LatentClass,
    MixtureModel,
    MixtureOfRegressions,
    StudentTMixture,
)
from jaxem.sklearn.factors import rotated

N = 60


def two_classes() -> np.ndarray:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(N, 2)), rng.normal(size=(N, 2)) @ [[1, 0.5], [0, 1]] + 3
    return np.where(np.arange(N)[:, None] % 2, one, other)


X = two_classes()
WEIGHTS = np.arange(N) % 3.0
START = {"weights_init": [0.5, 0.5], "means_init": [[0.0, 0.0], [3.0, 3.0]], "precisions_init": [np.eye(2)] * 2}


def normal_mixture(**options: Any) -> GaussianMixture:
    """The estimator of most tests; one program fits all of them."""
    return GaussianMixture(2, **{"reg_covar": 0, "tol": 1e-13, "random_state": 0, **START, **options})


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return normal_mixture().fit(X)


def test_it_finds_the_maximum_of_scikit_learn(fitted: GaussianMixture) -> None:
    peer = theirs.GaussianMixture(2, tol=1e-14, max_iter=5000, reg_covar=0, **START).fit(X)
    # Both may miss the maximum of the log-likelihood by some 1e-13 an observation, and parameters by the root of that.
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(fitted, name), getattr(peer, name), rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(fitted.score_samples(X), peer.score_samples(X), atol=1e-5)
    np.testing.assert_allclose(fitted.predict_proba(X), peer.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(fitted.predict(X), peer.predict(X))
    for name in ("score", "bic", "aic"):
        np.testing.assert_allclose(getattr(fitted, name)(X), getattr(peer, name)(X), rtol=1e-9, err_msg=name)
    assert fitted.score(X) >= peer.score(X) - 1e-12
    assert fitted._n_parameters() == peer._n_parameters() == 11
    np.testing.assert_allclose(fitted.lower_bound_, fitted.score(X), rtol=1e-13)
    assert fitted.lower_bounds_[-1] == fitted.lower_bound_ and len(fitted.lower_bounds_) == fitted.n_iter_
    assert np.all(np.diff(fitted.lower_bounds_) >= -1e-14)


def test_weights_count_rows(fitted: GaussianMixture) -> None:
    weighted = normal_mixture().fit(X, sample_weight=WEIGHTS)
    x, w = X.repeat(WEIGHTS.astype(int), axis=0), WEIGHTS
    repeated = normal_mixture().fit(x)
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-6)
    assert np.abs(weighted.means_ - fitted.means_).max() > 0.01
    np.testing.assert_allclose(weighted.score(X, sample_weight=w), repeated.score(x), rtol=1e-10)
    for name in ("bic", "aic"):
        np.testing.assert_allclose(getattr(weighted, name)(X, w), getattr(repeated, name)(x), rtol=1e-10)


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.slow
def test_the_dtype_of_x_is_kept_whatever_jax_is_set_to(outside: bool, fitted: GaussianMixture) -> None:
    with jax.enable_x64(outside):
        double = pickle.loads(pickle.dumps(normal_mixture().fit(X)))
        assert double.means_.dtype == double.fit_.params.components.means.dtype == np.float64
        assert double.score_samples(X).dtype == double.predict_proba(X).dtype == np.float64
        np.testing.assert_array_equal(double.means_, fitted.means_)
        assert jax.config.jax_enable_x64 == outside  # pyright: ignore[reportAttributeAccessIssue]
        single = normal_mixture().fit(X.astype(np.float32))
        for found in (single.means_, single.weights_, single.covariances_, single.predict_proba(X.astype(np.float32))):
            assert found.dtype == np.float32
        np.testing.assert_allclose(single.means_, fitted.means_, rtol=2e-3)


def test_frames_in_and_out(fitted: GaussianMixture) -> None:
    for frame in (pd.DataFrame(X, columns=["a", "b"]), pl.DataFrame(X, schema=["a", "b"])):
        ours = normal_mixture().fit(frame)
        np.testing.assert_array_equal(ours.means_, fitted.means_)
        assert list(ours.feature_names_in_) == ["a", "b"]
        library = type(frame).__module__.split(".")[0]
        out = ours.set_output(transform=library).transform(frame)
        assert isinstance(out, type(frame))
        assert list(out.columns) == list(ours.get_feature_names_out()) == ["gaussianmixture0", "gaussianmixture1"]
        np.testing.assert_array_equal(np.asarray(out), fitted.predict_proba(X))
        with pytest.raises(ValueError, match="feature names"):
            ours.predict(frame.rename(columns={"a": "c"}) if library == "pandas" else frame.rename({"a": "c"}))


@pytest.mark.slow
def test_pipelines_searches_and_routing(fitted: GaussianMixture) -> None:
    same = clone(normal_mixture())
    np.testing.assert_array_equal(same.fit_predict(X), fitted.predict(X))
    piped = make_pipeline(StandardScaler(with_mean=False, with_std=False), normal_mixture(), LinearRegression())
    assert piped.fit(X, X[:, 0]).score(X, X[:, 0]) > 0.3
    with sklearn.config_context(enable_metadata_routing=True):
        routed = normal_mixture().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = GridSearchCV(routed, {"tol": [1e-10, 1e-3]}, cv=2).fit(X, sample_weight=WEIGHTS)
        weighted = normal_mixture(**found.best_params_).fit(X, sample_weight=WEIGHTS)
        np.testing.assert_array_equal(found.best_estimator_.means_, weighted.means_)


@pytest.mark.slow
def test_statuses_become_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge.*MAX_STEPS after 2 iterations"):
        short = normal_mixture(max_iter=2).fit(X)
    assert not short.converged_ and short.n_iter_ == 2
    collapsed = X.copy()
    collapsed[: N // 2] = 0
    with pytest.raises(ValueError, match=r"ill-defined empirical covariance.*DEGENERATE"):
        normal_mixture(means_init=[[0.0, 0.0], [2.0, 2.0]]).fit(collapsed)
    normal_mixture(verbose=1).fit(X)
    assert "GaussianMixture: iteration" in capsys.readouterr().out


def test_a_warm_start_goes_on(fitted: GaussianMixture) -> None:
    steps = normal_mixture(warm_start=True, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = steps.fit(X).lower_bounds_
        second = steps.fit(X).lower_bounds_
        np.testing.assert_allclose(first + second, fitted.lower_bounds_[:4], rtol=1e-12)
        for _ in range(500):
            if steps.fit(X).converged_:
                break
    np.testing.assert_allclose(steps.lower_bound_, fitted.lower_bound_, rtol=1e-9)


def test_the_floor_is_in_the_objective_and_not_in_the_scores() -> None:
    ours = normal_mixture(reg_covar=0.3).fit(X)
    assert np.all(np.diff(ours.lower_bounds_) >= -1e-14)
    w, m, s = ours.weights_, ours.means_, ours.covariances_
    density = [stats.multivariate_normal(m[k], s[k]).pdf(X) * w[k] for k in range(2)]
    np.testing.assert_allclose(ours.score_samples(X), np.log(sum(density)), rtol=1e-12)
    np.testing.assert_allclose(ours.predict_proba(X), np.transpose(density) / sum(density)[:, None], rtol=1e-9)
    floored = [density[k] * np.exp(-0.15 * np.trace(np.linalg.inv(s[k]))) for k in range(2)]
    np.testing.assert_allclose(ours.lower_bound_, np.log(sum(floored)).mean(), rtol=1e-12)
    r = np.transpose(floored) / sum(floored)[:, None]
    for k in range(2):  # the M-step adds the floor to the variances; the fit ends 1e-10 below its maximum
        np.testing.assert_allclose(np.cov(X.T, aweights=r[:, k], ddof=0) + 0.3 * np.eye(2), s[k], atol=1e-4)


@pytest.mark.everything
def test_cells_may_be_missing_where_the_family_allows(fitted: GaussianMixture) -> None:
    gaps = X.copy()
    gaps[::7, 1] = np.nan
    ours = GaussianMixture(2, reg_covar=0, random_state=0).fit(gaps)
    alone = jaxem.dataset(gaps, missing="nan")
    np.testing.assert_allclose(ours.model_.log_prob(ours.fit_, alone), ours.score_samples(gaps), rtol=1e-12)
    with pytest.raises(ValueError, match="contains NaN"):
        GaussianMixture(2).fit(gaps)


def test_draws(fitted: GaussianMixture) -> None:
    x, labels = fitted.sample(2000)
    assert x.shape == (2000, 2) and labels.shape == (2000,)
    for k in range(2):  # within five standard errors
        own = x[labels == k]
        error = np.sqrt(np.diag(fitted.covariances_[k]) / len(own))
        assert (np.abs(own.mean(axis=0) - fitted.means_[k]) < 5 * error).all()
    np.testing.assert_array_equal(fitted.sample(5)[0], fitted.sample(5)[0])


@pytest.mark.everything
def test_jaxem_is_one_step_away(fitted: GaussianMixture) -> None:
    assert "means[0, 0]" in str(jaxem.summary(fitted.model_, fitted.fit_, fitted.as_data(X)))
    jaxem.check(fitted.fit_)
    table = pd.DataFrame({"say": ["yes", "no"] * 20, "score": np.arange(40.0) % 7})
    classes = LatentClass(2, random_state=0).fit(table)
    assert "yes" in str(jaxem.inference.profile(classes.model_, classes.fit_, classes.as_data(table)))


def test_parameters_are_checked_by_name() -> None:
    for name, value in {"tol": -1, "n_components": 0, "init_params": "best", "covariance_type": "XYZ"}.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter of GaussianMixture"):
            GaussianMixture(**{name: value}).fit(X)
    wrong = {
        "weights_init": ([0.7, 0.7], "should be normalized"),
        "means_init": ([[0.0, 0.0]], r"'means' should have the shape of \(2, 2\)"),
        "precisions_init": ([-np.eye(2)] * 2, "symmetric, positive-definite"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            normal_mixture(**{name: value}).fit(X)
    with pytest.raises(ValueError, match="precisions_init needs a covariance_type among"):
        normal_mixture(covariance_type="EVE").fit(X)
    with pytest.raises(ValueError, match=r"a family of jaxem[.]families, or the name of one: .*Poisson"):
        MixtureModel(family="Posson").fit(X)
    with pytest.raises(ValueError, match="reg_covar is for the family Normal"):
        MixtureOfRegressions(family="Poisson", reg_covar=1.0).fit(X, X[:, 0])
    with pytest.raises(TypeError, match="verbose_interval"):
        GaussianMixture(verbose_interval=3)  # pyright: ignore[reportCallIssue]


@pytest.mark.everything
@pytest.mark.parametrize("name", ["EII", "VEV", "EVE", "EEI"])
def test_the_names_of_mclust(name: str) -> None:
    ours = GaussianMixture(2, covariance_type=name, random_state=0).fit(X)
    own = families.MultivariateNormal(name).covariances(ours.fit_.params.components)
    np.testing.assert_array_equal(ours.covariances_, own)
    np.testing.assert_allclose(ours.covariances_ @ ours.precisions_, np.broadcast_to(np.eye(2), (2, 2, 2)), atol=1e-9)


@pytest.mark.everything
@pytest.mark.parametrize("kind", ["kmeans", "k-means++", "random", "random_from_data"])
def test_starts_by_name(kind: str, fitted: GaussianMixture) -> None:
    ours = GaussianMixture(2, reg_covar=0, n_init=5, init_params=kind, random_state=0).fit(X)
    np.testing.assert_allclose(ours.lower_bound_, fitted.lower_bound_, rtol=1e-7)


@pytest.mark.slow
def test_latent_classes_of_a_table() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 200)
    say = np.where(rng.random(200) < np.where(truth, 0.9, 0.2), "yes", "no").astype(object)
    score = rng.normal(size=200) + 4 * truth
    stage = rng.integers(0, 3, 200)
    say[::20] = None
    score[5::20] = np.nan
    frame = pd.DataFrame({"say": say, "score": score, "stage": stage})
    ours = LatentClass(2, random_state=0).fit(frame)
    assert ours.categories_ == {"say": ["no", "yes"], "stage": [0, 1, 2]}
    high = int(ours.means_["score"].argmax())
    assert abs(ours.means_["score"][high] - 4) < 0.5 and abs(ours.probabilities_["say"][high, 1] - 0.9) < 0.1
    assert (ours.predict(frame) == (truth if high else 1 - truth)).mean() > 0.9
    # the log-density of the first row that misses a cell, by hand
    n, w = 5, ours.weights_
    each = w * ours.probabilities_["say"][:, int(say[n] == "yes")] * ours.probabilities_["stage"][:, stage[n]]
    np.testing.assert_allclose(ours.score_samples(frame)[n], np.log(each.sum()), rtol=1e-12)
    other = pl.DataFrame({"say": pl.Series(say.tolist(), dtype=pl.String), "score": score, "stage": stage})
    np.testing.assert_array_equal(ours.score_samples(other), ours.score_samples(frame))
    drawn, labels = ours.sample(20)
    assert isinstance(drawn, pd.DataFrame) and set(drawn["say"]) <= {"no", "yes"} and labels.shape == (20,)
    assert ours.as_data(frame).columns("values.categorical").levels == (("no", "yes"), ("0", "1", "2"))
    unseen = frame.assign(say="perhaps")
    with pytest.raises(ValueError, match=r"column 'say' has 'perhaps', first in row 0; its levels are 'no', 'yes'"):
        ours.predict(unseen)
    codes = np.array([[0, 30], [1, 10], [1, 30], [0, 20]] * 5)
    numbers = LatentClass(1, random_state=0).fit(codes)
    assert numbers.categories_ == {"x0": [0, 1], "x1": [10, 20, 30]}
    np.testing.assert_array_equal(numbers._read(codes[:4], False), [[0, 2], [1, 0], [1, 2], [0, 1]])
    with pytest.raises(ValueError, match=r"column 'x1' has 15, first in row 1; its levels are 10, 20, 30"):
        numbers.predict(np.array([[0, 30], [1, 15]]))
    for kind, unseen in (("int64", 2), ("int64", -1), ("uint64", 2**63)):
        with pytest.raises(ValueError, match=f"column 'x0' has {unseen}, first in row 0; its levels are 0, 1"):
            numbers.predict(np.array([[unseen, 30]], kind))
    with pytest.raises(ValueError, match="there is no column 'age'"):
        LatentClass(categorical_features=["age"]).fit(frame)


@pytest.mark.slow
def test_regressions_of_two_classes() -> None:
    rng = np.random.default_rng(4)
    x, truth = rng.normal(size=(200, 1)), rng.integers(0, 2, 200)
    y = np.where(truth, 1 + 2 * x[:, 0], -1 - 2 * x[:, 0]) + 0.2 * rng.normal(size=200)
    ours = MixtureOfRegressions(2, random_state=0, gate="softmax").fit(x, y)
    order = np.argsort(ours.coef_[:, 0])
    np.testing.assert_allclose(ours.coef_[order, 0], [-2, 2], atol=0.1)  # five standard errors
    np.testing.assert_allclose(ours.intercept_[order], [-1, 1], atol=0.1)
    assert (ours.predict_class(x, y) == order[truth]).mean() > 0.9
    w = ours.predict_class_proba(x)
    np.testing.assert_allclose(ours.predict(x), (w * (ours.intercept_ + x @ ours.coef_.T)).sum(axis=1), atol=1e-14)
    m, v = ours.intercept_ + x @ ours.coef_.T, ours.dispersions_
    density = (w * stats.norm(m, np.sqrt(v)).pdf(y[:, None])).sum(axis=1)
    np.testing.assert_allclose(ours.log_density(x, y), np.log(density), rtol=1e-10)
    np.testing.assert_allclose(ours.bic(x, y), -2 * np.log(density).sum() + 8 * np.log(200), rtol=1e-12)


@pytest.mark.slow
def test_factors_of_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    loadings = rng.normal(size=(2, 6))
    x = rng.normal(size=(300, 2)) @ loadings + rng.normal(size=(300, 6))
    ours = FactorAnalysis(2, tol=1e-13, algorithm=jaxem.SQUAREM()).fit(x)
    peer = TheirFactorAnalysis(2, tol=1e-12, max_iter=20000, svd_method="lapack").fit(x)
    np.testing.assert_allclose(ours.noise_variance_, peer.noise_variance_, rtol=1e-4)
    sign = np.sign((ours.components_ * peer.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components_ * sign[:, None], peer.components_, atol=2e-4)
    np.testing.assert_allclose(ours.transform(x) * sign, peer.transform(x), atol=2e-4)
    np.testing.assert_allclose(ours.get_covariance(), peer.get_covariance(), rtol=1e-4)
    np.testing.assert_allclose(ours.get_covariance() @ ours.get_precision(), np.eye(6), atol=1e-12)
    np.testing.assert_allclose(ours.score(x), peer.score(x), rtol=1e-9)
    assert FactorAnalysis(rotation="varimax").get_params()["rotation"] == "varimax"
    for method in ("varimax", "quartimax"):
        turned = rotated(ours.components_.T, method)
        np.testing.assert_allclose(turned @ turned.T, ours.components_.T @ ours.components_, atol=1e-12)
        peer = TheirFactorAnalysis(2, rotation=method)._rotate(ours.components_)
        even = method == "varimax"  # the variance of the squares in each column, or the sum of all fourth powers
        value = lambda b, even=even: (b**4).sum() - even * ((b**2).sum(axis=0) ** 2).sum() / len(b)
        # The peer ends where the sum of singular values changes by 1e-6 of itself.
        assert value(turned) * (1 + 1e-12) >= value(peer.T) >= value(turned) * (1 - 1e-5)
    with pytest.raises(ValueError, match="6 factors need more than 6 columns"):
        FactorAnalysis(6).fit(x)
    with pytest.raises(ValueError, match="noise_variance_init dimension"):
        FactorAnalysis(2, noise_variance_init=np.ones(5)).fit(x)


@pytest.mark.everything
def test_other_mixtures() -> None:
    counts = np.random.default_rng(2).poisson(np.where(np.arange(200)[:, None] % 2, [2, 9], [8, 1]))
    for family in ("Poisson", "PoissonVector"):
        ours = MixtureModel(2, family=family, random_state=0).fit(counts)
        x, labels = ours.sample(7)
        assert x.shape == (7, 2) and labels.shape == (7,)
    vector = MixtureModel(2, family=families.PoissonVector(), random_state=0).fit(counts)
    np.testing.assert_allclose(ours.lower_bound_, vector.lower_bound_, rtol=1e-9)
    columns = MixtureModel(2, family="Poisson", random_state=0).fit(counts)
    np.testing.assert_allclose(columns.score_samples(counts), vector.score_samples(counts), rtol=1e-5)
    far = np.concatenate([X, [[40.0, -40.0]]])
    robust = StudentTMixture(1, random_state=0).fit(far)
    assert robust.freedom_[0] < 10 and np.abs(robust.locations_[0] - X.mean(axis=0)).max() < 0.3
