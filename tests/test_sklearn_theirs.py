"""scikit-learn's own checks and tests, imported from the installed package, run on our estimators.

The default tier has one estimator's checks of what needs no fit, and a few of the tests; the rest runs with
``--everything``.
"""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition.tests import test_factor_analysis as factors
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture.tests import test_gaussian_mixture as gaussian
from sklearn.mixture.tests import test_mixture as mixtures
from sklearn.utils.estimator_checks import estimator_checks_generator

from jaxem import sklearn as ours
from jaxem.fitting import effort

pytestmark = pytest.mark.filterwarnings("default")  # theirs warn, as ours do where a fit does not converge

ESTIMATORS = [
    ours.GaussianMixture(),
    ours.StudentTMixture(),
    ours.MixtureModel(),
    ours.LatentClass(),
    ours.MixtureOfRegressions(),
    ours.FactorAnalysis(),
]
# 15 rows of 30 columns: a matrix is singular, and coefficients are not determined. scikit-learn's estimators with a
# penalty pass; maximum likelihood has no answer, and ours say so.
NO_MAXIMUM = "check_sample_weight_equivalence_on_dense_data"
REFUSED = {("StudentTMixture", NO_MAXIMUM), ("MixtureOfRegressions", NO_MAXIMUM)}
QUICK = {  # checks that fit nothing, or little
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_valid_tag_types",
    "check_estimator_tags_renamed",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_complex_data",
    "check_estimators_empty_data_messages",
    "check_estimator_sparse_tag",
    "check_estimator_sparse_array",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_param_validation",
}


def _checks() -> Iterator[Any]:
    for estimator in ESTIMATORS:
        for each, check in estimator_checks_generator(estimator, legacy=True):
            name, check_name = type(estimator).__name__, (check.func if hasattr(check, "func") else check).__name__
            quick = name == "GaussianMixture" and check_name in QUICK
            marks = () if quick else pytest.mark.everything
            yield pytest.param(each, check, (name, check_name) in REFUSED, marks=marks, id=f"{name}-{check_name}")


@pytest.mark.parametrize(("estimator", "check", "refused"), list(_checks()))
def test_estimator_checks(estimator: Any, check: Any, refused: bool) -> None:
    with effort("quick"):
        if refused:
            with pytest.raises(ValueError, match=r"has no maximum|cannot be told apart|DEGENERATE"):
                check(estimator)
        else:
            check(estimator)


# scikit-learn's tests of GaussianMixture. Those left out, by the beginning of their names:
LEFT_OUT = {
    "test_suffstat": "tests private functions of scikit-learn, and no estimator",
    "test_gaussian_suffstat": "likewise",
    "test_compute_log_det_cholesky": "likewise",
    "test_gaussian_mixture_log_probabilities": "likewise",
    "test_gaussian_mixture_precisions_init[": "calls the private _initialize and _set_parameters",
    "test_gaussian_mixture_all_init": "counts the calls of a private function",
    "test_gaussian_mixture_array_api": "needs PyTorch or CuPy",
    "test_gaussian_mixture_raises_where_array_api": "likewise",
    "test_check_weights": "asserts a message that has the smallest and the largest weight exchanged",
    "test_gaussian_mixture_setting_best_params": "a start of points of no variance: ours is DEGENERATE, a ValueError",
    "test_gaussian_mixture_precisions_init_diag": (
        "counts the iterations from two starts that are equal to rounding error, and are the maximum: rounding error "
        "decides how many ours takes there"
    ),
}
FEW = ("test_check_means", "test_max_iter_zero")


def _out(name: str) -> bool:
    return any(name == left or (name + "[").startswith(left) for left in LEFT_OUT)


for _name, _test in vars(gaussian).items():
    if _name.startswith("test_") and inspect.isfunction(_test) and not _out(_name):
        globals()[_name] = _test if _name in FEW else pytest.mark.everything(_test)


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our estimators under their names."""
    monkeypatch.setattr(gaussian, "GaussianMixture", ours.GaussianMixture)
    monkeypatch.setattr(factors, "FactorAnalysis", Told)
    with effort("quick"):
        yield


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
def global_random_seed() -> int:
    return 42


class Told(ours.FactorAnalysis):
    """Our factor analysis, in a test that also asks for no factor, and for as many factors as columns.

    The model refuses both by name: it takes the nearest number that can be told from noise.
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        asked = self.n_components
        self.n_components = min(max(asked, 1), X.shape[1] - 1)
        super().fit(X, y, sample_weight)
        self.n_components = asked
        return self


@pytest.mark.everything
def test_of_factor_analysis(global_random_seed: int) -> None:
    factors.test_factor_analysis(global_random_seed)


@pytest.mark.slow
def test_of_any_mixture() -> None:
    with pytest.warns(ConvergenceWarning, match="after 1 iterations"):
        mixtures.test_gaussian_mixture_n_iter(ours.GaussianMixture())
    mixtures.test_mixture_n_components_greater_than_n_samples_error(ours.GaussianMixture())


def test_the_left_out_exist() -> None:
    for left in LEFT_OUT:
        assert any(name.startswith(left.rstrip("[")) for name in vars(gaussian)), left
    assert importlib.import_module("jaxem").sklearn is ours
