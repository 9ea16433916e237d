"""Hostile settings for every test: two devices, strict dtypes, no silent broadcasting, 64 bits, warnings as errors."""

import os
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time of the tests is compilation: LLVM's optimiser, and XLA's newer fusions, which take twice as long to
# compile as the older ones. The last flag wins, so XLA_FLAGS="--xla_backend_optimization_level=3
# --xla_cpu_use_fusion_emitters=true" runs the tests on the programs that users run.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"]
    + ["--xla_cpu_parallel_codegen_split_count=1"]
    # XLA ends the process at a flag that it does not know.
    + ["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10.")
    + [os.environ.get("XLA_FLAGS", "")]
).strip()

import contextlib
import functools
import gc
import re
from collections.abc import Callable, Iterator

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import mlir

# What is traced and compiled stays, and full collections of a heap that only grows take a tenth of the time.
gc.set_threshold(100_000, 50, 1000)
if version("jax").startswith("0.10.") and hasattr(mlir, "make_ir_context"):
    # One context of MLIR for all programs: a quarter of the time of a small one went into making its own.
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes the first example slow; the same examples on every run.
hypothesis.settings.register_profile("jaxem", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("jaxem")

COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Which programs XLA has compiled since the block was entered."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def count(self) -> int:
        return len(self.names)

    def __call__(self, event: str, *_: object, **about: object) -> None:
        if event == COMPILED:
            self.names.append(str(about.get("fun_name")))


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "run the tests of every change: those marked slow too"
    parser.addoption("--slow", action="store_true", help=help)
    help = "run all tests: both precisions of every law and mutant, all algorithms on all models"
    parser.addoption("--everything", action="store_true", help=help)


# Of the rows of long tables those that take longest and differ least from their neighbours: like marked ones.
EVERYTHING = re.compile(
    r"""
    test_examples .* \[(acceleration|error_bars|gallery|gem_optax|how_many_components|online|trials|tuning_a_prior)\]
    | test_examples .* missing_information
    | test_examples .* (\[(survey|missing_cells)\]|old_faithful_as_a_script)
    | test_algorithms .* float32
    | test_certificate .* test_a_right_model_is_not_called_wrong .* float32
    | test_density_accuracy .* test_log_densities .* float64
    | test_plot .* test_surrogates_lie_below .* prior
    | test_selection .* \[iris\]
    | test_laws .* test_jit_vmap_and_blocks_agree .* (weighted\ hmm|tied)
    | test_units .* (sgd|momentum|rmsprop|nesterov)
    | test_structural_zeros .* test_every_algorithm_keeps_them .* (blocks|Anderson|HardEM|AnnealedEM|Incremental)
    | test_readme .* 32_bits
    | test_implicit .* test_factors_that_rotate
    | test_accelerators .* test_gem_is_accelerated_too
    | test_generalized .* test_the_gradient_of_a_batch
    | test_(mutants|sums|masked) .* VEV
    | test_sums .* VVE
    # Laws of a model that is a row of tests/cases.py too.
    | test_censored .* in_a_mixture .* (normal|poisson)-float64
    | test_switching .* laws_hold_with_switching_variances
    | test_product .* test_every_law_holds_with_gaps
    # EM, whose rows say most of what the laws of the same model say.
    | test_algorithms .* \[EM-(sticky|driven|priors|switching|poisson\ regression|VVE|VEV)
    | test_algorithms .* \[EM-(state|truncated|graded|experts)
    # The same in 32 bits: what is special to these has tests of its own.
    | test_chain_forms .* (plain_numbers|side_by_side) .* float32
    | test_hmm .* (agrees_with_enumeration|out_of_reach) .* float32
    | test_starts .* (more_columns|advised_prior) .* float32
    | test_stream .* (a_fit_to_a_stream|devices_in_memory) .* float32
    | test_more_families .* (float32-beta|of_the_root\[float32|maximisers\[float32|the_support\[float32)
    | test_forms .* another_order .* float32
    | test_counts .* end_at_the_edge .* float32
    | test_restrict .* chart_of_what_is_free .* float32
    | test_switching .* over_all_paths .* float32
    | test_student .* (infinite_deviations|given_degrees) .* float32
    | test_counts .* (poisson_at_the_edge|of_both_kinds) .* float32
    | test_starts .* (are_blamed|harm_to_others|do_not_count|of_one_number) .* float32
    | test_held .* (exact_and_the_rest|charts_invert|gradients_are_finite) .* float32
    | test_mixture .* starts_are_models .* float32
    # In 32 bits it says more than in 64.
    | test_density_accuracy .* (degrees_of_freedom|large_counts) .* float64
    | test_named_chains .* in_logarithms .* float64
    | test_priors .* above_the_floor .* float64
    | test_improving .* finite_and_short .* float64
    | test_nan .* as_reported\[float64
    # Examples whose figures the tests of the model have, and statements that the certificate checks on every model.
    | test_examples .* \[(nile|first_principles)\]
    # Said in another file: names of frames (test_frames), of axes (test_forms, test_names), a stationary M-step (laws).
    | test_dataset .* every_entry_takes_a_frame
    | test_forms .* summary_names_axes
    | test_item_response .* m_step_maximises
    | test_implicit .* whole_numbers
    | test_nan .* no_parameters\[(.*,\ prior|poisson\ hmm|ragged\ hmm)\]
    | test_sizes .* of_the_rows\[(33|64)
    # Neighbours of another row: another family of the same wrapper, form of a covariance, length, number of columns.
    | test_checkpoint .* same_bits\[((SQUAREM|Anderson|AnnealedEM|SAEM)-poisson|GEM-normal)
    | test_masked .* larger_shapes\[(tied|spherical|chain\ of\ vectors|poisson|bernoulli)
    | test_switching .* long_series
    | test_censored .* in_a_chain
    | test_censored .* of_a_direct_search\[(weibull|negative|gamma)
    | test_censored .* are_possible\[(exponential|beta|student\ t(,\ tied)?\]|truncated\ arcs)
    | test_censored .* are_possible\[truncated\ (gamma|log|normal|poisson|weibull|exponential|student)
    | test_chain_inputs .* direct_maximisation\[left
    | test_component .* test_every_law_holds\[(chain\ of\ mixtures|factor\ analysers,\ gaps)
    | test_more_families .* (in_float32\[beta|maximisers\[float64-beta)
    | test_algorithms .* \[Anderson-full,\ prior
    | test_keeping .* of_a_log_joint
    | test_counts .* hidden_variables_of_a_family
    | test_density_accuracy .* last_place .* ((tied|spherical|diag),\ products|Wishart,\ diag)
    | test_edges .* at_an_edge\[(a\ rate|an\ item)
    | test_forms .* (in_mclust\[(VVE|EVV)|of_its_equations\[(VVE|VEI)|an_empty_one\[float64-(VVE|EVV)|larger_q\[V)
    | test_gates .* a_separated_gate_ends\[float32-(dependent|three)
    | test_generalized .* path_of_em\[log-joint
    | test_hidden .* converges\[(mixture|weighted)
    | test_hostile .* numbers_that_they_are\[Mixture\((Poisson|Exponential|Bernoulli)
    | test_information .* three_routes .* \[spherical
    | test_missing .* (direct_search\[diag|are_caught\[t:)
    | test_missing .* (of_what_is_seen\[t,\ (tied|spherical)|tiles_are_sums_over_rows\[t\]|weighted\ by\ u)
    | test_missing .* (test_every_law_holds\[(full|chain)|of_what_is_seen\[(tied|spherical)\])
    | test_plot .* surrogates_(lie_below\[hidden|touch_at_the_dots\[normal)
    | test_product .* election_survey\[[12]-
    | test_regression .* units_of_covariates
    | test_remaining .* (coincide_are_said\[(poisson|bernoulli)|little_is_left\[(Anderson-[12]|SQUAREM-1))
    | test_remaining .* (what_is_left\[float32-(SQUAREM|Anderson|Incremental)|called_an_end\[float(32|64)-0.9-)
    | test_restrict .* under_the_restriction\[(a\ mean|variances|two\ classes|a\ weight|diag|spherical|zeros)
    | test_restrict .* under_the_restriction\[(tied\]|bernoulli|poisson|exponential)
    | test_restrict .* restricted_likelihood\[(a\ mean|variances)
    | test_screening .* lose_the_best\[(three|tied|iris)
    | test_shards .* is_the_fit\[(factors|full\])
    | test_shared_parameters .* what_they_share_stays\[(.*-2|(diag|spherical|user,\ one\ matrix)-[13]|full-3)\]
    | test_starts .* makes_a_fit_of_them\[float64-(tied|spherical)
    | test_state_space .* joint_normal_distribution\[False-model[14]
    | test_state_space .* direct_maximisation\[no\ noise
    | test_stream .* (on_sums\[(SQUAREM1|AnnealedEM)|stream_is_the_fit\[float64-(weighted|bounded))
    | test_units .* (far_from_the_origin\[(10000|0.001)|change_no_step\[adam)
    # Each algorithm on one model, and each model under one algorithm.
    | test_structural_zeros .* keeps_them\[(GEM\ in\ batches-(left|levels|rate)|GEM-(left|items|rate))
    | test_structural_zeros .* keeps_them\[(SQUAREM-(levels|items|rate)|OnlineEM-(left|items|rate))
    | test_structural_zeros .* keeps_them\[(MonteCarloEM-(left|levels|rate)|SAEM-(levels|items|rate))
    | test_nan .* ends_the_fit\[masked-(L-BFGS|sgd|adam|groups|batches|SQUAREM|Anderson)
    | test_nan .* ends_the_fit\[prior-(L-BFGS|sgd|adam|groups|on\ the|SQUAREM|Anderson)
    | test_nan .* settles_nothing\[prior-(L-BFGS|sgd|batches|SQUAREM)
    | test_algorithms .* \[GEM-normal
    | test_stream .* on_sums\[Anderson
    | test_structural_zeros .* (of_the_bound_at_exact_zeros|keeps_them\[GEM-)\[?levels
    | test_units .* (taken_twice.*L-BFGS|-adam\])
    # Laws, optima and mistakes of which a like one stays: at another point, of another family, in another precision.
    | test_laws .* end_of_a_climb\[(ragged|gamma|mixed|normal)
    | test_laws .* blocks_agree\[(weighted|categorical)
    | test_mutants .* (staying_left_out|one_tail|axes_never_turn)
    | test_missing .* (direct_search\[t\]|are_caught\[the\ covariance|what_is_seen\[t|changes_nothing\[bern)
    | test_missing .* keep_what_is_seen\[(t|poisson)
    | test_censored .* (limits\[student|direct_search\[beta|possible\[(student\ t,\ given|negative|gamma|von))
    | test_censored .* (shares_and_counts|a_t_variable)\[float64
    | test_arcs .* (direct_search\[truncated|from_the_direction\[1|probabilities_of_arcs\[float64)
    | test_accelerators .* test_float32
    | test_capabilities .* parameters\[convergence_rate
    | test_chain_inputs .* maximisation\[inputs
    | test_hmm .* enumeration\[float64-normal
    | test_nan .* no_parameters\[sticky
    | test_remaining .* called_an_end\[float64
    | test_certificate .* (no_proof.*float64|zeros_counts.*float64|far_from_zero.*\[1000000)
    | test_constraints .* real_is_the_identity\[float32
    | test_edges .* corner_of_the_initial
    | test_forms .* (one_class_and_one_column\[VVE|derivative_of_its_equations\[VEE)
    | test_implicit .* test_float32
    | test_masked .* VVE
    | test_more_families .* collapsed.*float64-beta
    | test_other_devices .* a_cpu\[(levels|chain_of_levels)
    | test_plot .* (dots\[hidden|tops\[normal\ mixture\ with|lie_below\[log|test_float32)
    | test_product .* profiles_of_other
    | test_regression .* a_maximum\[normal,\ tied
    | test_restrict .* (\[no\ Newton|restriction\[even\ means-algorithm0)
    | test_shards .* (is_the_fit\[ragged|between_devices\[full)
    | test_variants .* enumeration\[poisson-float32
    """,
    re.VERBOSE,
)


# The files that take longest, longest first, so that no worker is left alone with one at the end.
LONG = """
laws missing mutants counts censored arcs checkpoint product stream forms regression more_families implicit algorithms
component nan restrict dataset shards certificate remaining structural_zeros masked density_accuracy improving
documentation variants information switching fit hostile bootstrap student examples edges units state_space hmm readme
"""
ORDER = {f"test_{name}": place for place, name in enumerate(LONG.split())}


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist would begin with the files of most tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.get(item.path.stem, len(ORDER)))
    if config.getoption("--everything"):
        return
    marks = ("everything",) if config.getoption("--slow") else ("everything", "slow")
    marked = [item for item in items if any(map(item.get_closest_marker, marks)) or EVERYTHING.search(item.nodeid)]
    left_out = set(map(id, marked))
    items[:] = [item for item in items if id(item) not in left_out]
    config.hook.pytest_deselected(items=marked)


@pytest.fixture
def single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece of a watched run is one step."""
    monkeypatch.setattr("jaxem.fitting.watch.PIECE", 1e-9)


@pytest.fixture
def collect() -> Iterator[Callable[[], int]]:
    """``gc.collect`` of what the test itself made: all that other tests of the process left would take seconds."""
    gc.freeze()
    yield gc.collect
    gc.unfreeze()


@pytest.fixture
def count_compilations() -> Callable[[], contextlib.AbstractContextManager[Compilations]]:
    """``with count_compilations() as compiled: ...``, then ``compiled.count``."""

    @contextlib.contextmanager
    def counting() -> Iterator[Compilations]:
        compilations = Compilations()
        jax.monitoring.register_event_duration_secs_listener(compilations)
        try:
            yield compilations
        finally:
            jax.monitoring.unregister_event_duration_listener(compilations)

    return counting


@pytest.fixture(params=["float32", "float64"], scope="session")
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    """Both floating dtypes, one after the other."""
    return jnp.dtype(request.param)
