# %% [markdown]
# # Coming from scikit-learn, hmmlearn or dynamax
#
# `jaxem.sklearn` has estimators with the names, parameters and attributes of scikit-learn and hmmlearn. Behind each is a
# model of jaxem, `model_`, and its fit, `fit_`, for all that the estimator does not have: standard errors, tests, other
# algorithms. Where you call jaxem itself, every function takes the model, the fit and the data.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import MultivariateNormal, Normal, Poisson
from jaxem.gates import Constant
from jaxem.models import HMM, Component, Mixture, StateSpace

jax.config.update("jax_enable_x64", True)
key = jax.random.key(0)

# %% [markdown]
# ## scikit-learn
#
# | scikit-learn | jaxem |
# |---|---|
# | `GaussianMixture(2).fit(X)` | `jaxem.sklearn.GaussianMixture(2).fit(X)`, or `Mixture(MultivariateNormal(), k=2)` |
# | `predict`, `predict_proba`, `score_samples`, `bic`, `sample` | the same, of the estimator |
# | `reg_covar=1e-6` | the same, as part of the objective; `MultivariateNormal(floor=1e-6)` |
# | `tol`: the gain of the last iteration | `tol`: the gain that is left, as estimated |
# | `n_init=10` | the same, or `jaxem.fit_restarts(model, x, key=key, restarts=10)` |
# | `FactorAnalysis(2)` | `jaxem.sklearn.FactorAnalysis(2)`, or `models.FactorAnalysis(2)` |
# | `Pipeline`, `GridSearchCV` | the same |
# | (no standard errors) | `jaxem.summary(estimator.model_, estimator.fit_, estimator.as_data(X))` |

# %%
x = datasets.old_faithful()
estimator = jaxem.sklearn.GaussianMixture(2, reg_covar=0, random_state=0).fit(x)
print(f"BIC {estimator.bic(x):.3f}, sizes", np.bincount(estimator.predict(x)))
assert abs(estimator.bic(x) - 2322.192) < 1e-3

# %% [markdown]
# ## hmmlearn
#
# | hmmlearn | jaxem |
# |---|---|
# | `GaussianHMM(2).fit(X, lengths)`, and `CategoricalHMM`, `PoissonHMM`, `MultinomialHMM`, `GMMHMM` | the same, from `jaxem.sklearn`; or `HMM(MultivariateNormal("diag"), 2)` and a list of sequences |
# | `GMMHMM(2, n_mix=3)` | the same, or `HMM(Component(Mixture(MultivariateNormal("diag"), 3)), 2)` |
# | `decode`, `predict_proba`, `score`, `bic`, `sample` | the same, of the estimator |
# | `startprob_prior`, `transmat_prior` | the same (at least 1), or `initial=Constant(prior=...)`, `transition=Constant(prior=...)` |
# | `params="mc"`: fit these only | the same, or `jaxem.restrict(model, fixed={"transition": ...})` |
# | `tol`: the gain of the last iteration | `tol`: the gain that is left, as estimated |
# | `n_iter=10`, and `monitor_.converged` is true after ten iterations | `n_iter=1000`; a fit that ran out of iterations has not converged |
# | a state that empties or collapses: warnings, or NaN | `ValueError`, with the likely causes |
# | one start | `n_init=10`, or `jaxem.fit_restarts(model, data, key=key, restarts=10)` |

# %%
years, counts = datasets.earthquakes()
estimator = jaxem.sklearn.PoissonHMM(2, random_state=0, tol=1e-6).fit(counts[:, None])
print(
    "log-likelihood", round(estimator.score(counts[:, None]), 3), "rates", np.sort(estimator.lambdas_.ravel()).round(2)
)

# %% [markdown]
# ## dynamax
#
# | dynamax | jaxem |
# |---|---|
# | `hmm = GaussianHMM(k, d)`, `params, props = hmm.initialize(key)` | `model = HMM(MultivariateNormal(), k)`, `params = model.init(key, x)` |
# | `hmm.fit_em(params, props, x, num_iters=100)` | `jaxem.fit(model, params, x)`: ends by a stopping rule, with a status |
# | `props.transitions.transition_matrix.trainable = False` | `jaxem.restrict(model, fixed={"transition": ...})` |
# | `most_likely_states`, `smoother`, `filter` | `predict`, `predict_proba`, `filter` |
# | `marginal_log_prob(params, x)` | `model.log_likelihood(params, x[None])` |
# | `inputs=u` | `jaxem.dataset(x, given=u)` |
# | `LinearGaussianSSM(k, d)` | `StateSpace(k)` |
# | `vmap(fit_em)` over data sets | `jaxem.fit_many(...)` |

# %%
x = counts[None].astype(float)  # one sequence of 107 years: (N, T)
model = HMM(Poisson(), 2)
fit = jaxem.check(jaxem.fit(model, model.init(key, x), x))
print("filtered", model.filter(fit, x).probabilities.shape, f"log-likelihood {model.log_likelihood(fit, x):.3f}")
assert abs(float(fit.objective) - estimator.score(counts[:, None])) < 1e-4
prior = HMM(Poisson(), 2, initial=Constant(prior=1.5), transition=Constant(prior=2.0))
jaxem.check(jaxem.fit(prior, fit, x))
still = jaxem.restrict(HMM(Poisson(), 2), fixed={"transition": np.array([[0.9, 0.1], [0.1, 0.9]])})
held = jaxem.check(jaxem.fit(still, still.init(key, x), x))
assert np.allclose(held.params.transition, [[0.9, 0.1], [0.1, 0.9]])
other = HMM(Component(Mixture(MultivariateNormal("diag"), 3)), 2), HMM(Normal(), 2), StateSpace(2)
assert all(not jaxem.core.capabilities(each).lacking["bound"] for each in other)
