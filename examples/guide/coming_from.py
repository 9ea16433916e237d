# %% [markdown]
# # Coming from scikit-learn, mclust, poLCA, flexmix, depmixS4, hmmlearn or dynamax
#
# Three things differ from all of them. The model, the parameters and the data are three objects: a fit returns parameters,
# and functions take `(model, params, data)`. Classes and codes count from 0. Criteria are -2 log-likelihood plus a
# penalty, so lower is better (mclust has the other sign).

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, Categorical, MultivariateNormal, Normal, Poisson, Product, Regression
from jaxem.gates import Constant, Softmax
from jaxem.models import HMM, Component, Mixture, StateSpace

jax.config.update("jax_enable_x64", True)
key = jax.random.key(0)

# %% [markdown]
# ## scikit-learn
#
# | scikit-learn | jaxem |
# |---|---|
# | `GaussianMixture(2).fit(X)` | `jaxem.sklearn.GaussianMixture(2).fit(X)`: the same parameters and attributes; or `Mixture(MultivariateNormal(), k=2)` |
# | `predict`, `predict_proba`, `score_samples`, `bic`, `sample` | the same, of the estimator |
# | `reg_covar=1e-6` | the same, or `MultivariateNormal(floor=1e-6)`: part of the objective |
# | `tol`: the last change | `tol`: what is left to the maximum |
# | `n_init=10` | the same, or `jaxem.fit_restarts(model, x, key=key, restarts=10)` |
# | `FactorAnalysis(2)` | `jaxem.sklearn.FactorAnalysis(2)`, or `models.FactorAnalysis(2)` |
# | `estimator.fit(X)` inside `Pipeline`, `GridSearchCV` | the same; `jaxem.summary(estimator.model_, estimator.fit_, estimator.as_data(X))` has standard errors |

# %%
x = datasets.old_faithful()
estimator = jaxem.sklearn.GaussianMixture(2, reg_covar=0, random_state=0).fit(x)
print(f"BIC {estimator.bic(x):.3f}, sizes", np.bincount(estimator.predict(x)))
assert abs(estimator.bic(x) - 2322.192) < 1e-3

# %% [markdown]
# ## mclust
#
# | mclust | jaxem |
# |---|---|
# | `m <- Mclust(x, G = 2, modelNames = "VVV")` | `model = Mixture(MultivariateNormal("VVV"), k=2)`, `fit = jaxem.fit(model, model.init(key, x), x)` |
# | `Mclust(x)`, `mclustBIC(x)` | `jaxem.select([Mixture(MultivariateNormal(name), k) ...], x, key=key)` |
# | `m$loglik`, `m$bic` | `fit.objective`, `-jaxem.inference.bic(model, fit, x)` |
# | `m$classification`, `m$z` | `model.predict(fit, x)`, `model.predict_proba(fit, x)` |
# | `summary(m, parameters = TRUE)` | `jaxem.summary(model, fit, x)`, with standard errors |
# | `dens(newdata, ...)` | `model.log_prob(fit, new)` |
# | `MclustBootstrap(m)`, `mclustBootstrapLRT(x)` | `jaxem.inference.bootstrap(...)`, `likelihood_ratio_test(...)` |
# | `prior = priorControl()` | `MultivariateNormal(prior=NormalInverseWishart.from_data(x, k))` |

# %%
model = Mixture(MultivariateNormal("VVV"), k=2)
fit = jaxem.check(jaxem.fit(model, model.init(key, x), x))
bic = jaxem.inference.bic(model, fit, x)
print(f"log-likelihood {fit.objective:.4f}, BIC {-bic:.3f} in mclust's sign")
print("sizes", np.bincount(model.predict(fit, x)))
assert abs(float(fit.objective) + 1130.264) < 1e-3 and abs(float(bic) - 2322.192) < 1e-3  # as mclust
assert model.predict_proba(fit, x).shape == (272, 2) and model.log_prob(fit, x).shape == (272,)
assert jaxem.families.NormalInverseWishart.from_data(x, 2) is not None

# %% [markdown]
# ## poLCA
#
# | poLCA | jaxem |
# |---|---|
# | `poLCA(cbind(A, B) ~ 1, d, nclass = 2, nrep = 10)` | `model = Mixture(Categorical((2, 2)), 2)`, `jaxem.fit_restarts(model, data, key=key, restarts=10)` |
# | `cbind(A, B) ~ party` | `Mixture(Categorical(...), 2, gate=Softmax(on="party"))`, data with `given={"party": ...}` |
# | codes 1, 2, ... | codes 0, 1, ...; data frames with categories as they are |
# | `na.rm = FALSE` | `jaxem.dataset(x, missing="nan")` |
# | `$probs`, `$probs.se`, `$P` | `jaxem.inference.profile(model, fit, data)` |
# | `$posterior`, `$predclass` | `model.predict_proba(fit, data)`, `model.predict(fit, data)` |
# | numbers of rows per pattern | `jaxem.dataset(patterns, weights=counts)` |

# %%
answers, persons = datasets.lsat7()
data = jaxem.dataset(answers, weights=persons)
model = Mixture(Categorical((2,) * 5), 2)
found = jaxem.fit_restarts(model, data, key=key, restarts=10)
best = jaxem.check(found.best)
print(f"log-likelihood {best.objective:.4f}, found by {found.times_best_found} of 10 starts")
print(jaxem.inference.profile(model, best, data))

# %% [markdown]
# ## flexmix
#
# | flexmix | jaxem |
# |---|---|
# | `flexmix(y ~ x, k = 3)` | `Mixture(Regression(Normal(), on="x"), 3)`, data with `given={"x": ...}` |
# | `FLXMRglm(family = "poisson")` | `Regression(Poisson(), on="x")` |
# | `concomitant = FLXPmultinom(~ z)` | `Mixture(..., gate=Softmax(on="z"))` |
# | `FLXMRglmfix(fixed = ~ x)` | `Regression(Poisson(), on="x", tied=...)` |
# | `stepFlexmix(k = 1:3, nrep = 5)` | `jaxem.select([...], data, key=key, restarts=5)` |
# | `summary(refit(m))` | `jaxem.summary(model, fit, data)` |
# | `parameters(m)`, `clusters(m)`, `posterior(m)` | `fit.params`, `model.predict(fit, data)`, `model.predict_proba(fit, data)` |

# %%
firms = datasets.patents()
data = jaxem.dataset(firms["patents"], given={"lgrd": firms["lgrd"], "rds": firms["rds"]})
model = Mixture(Regression(Poisson(), on="lgrd"), k=3, gate=Softmax(on="rds"))
fit = jaxem.check(jaxem.fit(model, model.init(key, data), data))
print(f"log-likelihood {fit.objective:.4f}")
assert abs(float(fit.objective) + 197.6750) < 1e-3  # as flexmix

# %% [markdown]
# ## depmixS4
#
# | depmixS4 | jaxem |
# |---|---|
# | `depmix(rt ~ 1, nstates = 2, ntimes = c(168, 134, 137))` | `HMM(Normal(), 2)`, a list of sequences |
# | `depmix(list(rt ~ 1, corr ~ 1), family = list(gaussian(), multinomial()))` | `HMM(Product({"rt": Normal(), "corr": Bernoulli()}), 2)` |
# | `transition = ~ cov`, `prior = ~ cov` | `transition=Softmax(on="cov")`, `initial=Softmax(on="cov")` |
# | `fit(m, fixed = ..., conrows = ...)` | `jaxem.restrict(model, fixed={...}, tied=[...])` |
# | `posterior(m, type = "viterbi")`, `"smoothing"` | `model.predict(fit, data)`, `model.predict_proba(fit, data)` |
# | `forwardbackward(m)`, `logLik(m)` | `model.e_step(fit, data)`, `fit.objective` |

# %%
times, right = datasets.speed()
model = HMM(Normal(), 2)
sequences = jaxem.dataset(times)
fit = jaxem.check(jaxem.fit(model, model.init(key, sequences), sequences))
print(f"log-likelihood {fit.objective:.4f}")
print("means", np.round(fit.params.emissions.means, 3), "stay", np.round(np.diag(fit.params.transition), 3))
print("path of the first series:", "".join(map(str, model.predict(fit, sequences)[0, :60])))

# %% [markdown]
# ## hmmlearn
#
# | hmmlearn | jaxem |
# |---|---|
# | `GaussianHMM(2, covariance_type="diag").fit(X, lengths)` | `HMM(MultivariateNormal("diag"), 2)`, a list of sequences |
# | `PoissonHMM`, `CategoricalHMM`, `GMMHMM` | `HMM(Poisson(), 2)`, `HMM(Categorical((3,)), 2)`, `HMM(Component(Mixture(...)), 2)` |
# | `decode(X)`, `predict_proba(X)`, `score(X)` | `model.predict(...)`, `model.predict_proba(...)`, `model.log_likelihood(...)` |
# | `transmat_prior`, `startprob_prior` | `transition=Constant(prior=...)`, `initial=Constant(prior=...)` |
# | `monitor_.converged` | `fit.status`; a fit that ran out of steps does not count as converged |
# | `params="mc"`, fixed parts | `jaxem.restrict(model, fixed={"transition": ...})` |
# | `min_covar` | `MultivariateNormal(floor=...)`, part of the objective |
# | one start | `jaxem.fit_restarts(model, data, key=key, restarts=10)` |
#
# ## dynamax
#
# | dynamax | jaxem |
# |---|---|
# | `hmm = GaussianHMM(k, d)`, `params, props = hmm.initialize(key)` | `model = HMM(MultivariateNormal(), k)`, `params = model.init(key, x)`: from the data |
# | `hmm.fit_em(params, props, x, num_iters=100)` | `jaxem.fit(model, params, x)`: stops by itself, and says how |
# | `props.transitions.transition_matrix.trainable = False` | `jaxem.restrict(model, fixed={"transition": ...})` |
# | `most_likely_states`, `smoother`, `filter` | `predict`, `predict_proba`, `filter` |
# | `marginal_log_prob(params, x)` | `model.log_likelihood(params, x[None])` |
# | `inputs=u` | `jaxem.dataset(x, given=u)` |
# | `LinearGaussianSSM(k, d)` | `StateSpace(k)` |
# | `vmap(fit_em)` over data sets | `jaxem.fit_many(...)`; lanes end one by one |

# %%
years, counts = datasets.earthquakes()
x = counts[None].astype(float)  # one sequence of 107 years: (N, T)
model = HMM(Poisson(), 2, transition=Constant(prior=2.0))
fit = jaxem.check(jaxem.fit(model, model.init(key, x), x))
print("filtered", model.filter(fit, x).probabilities.shape, f"log-likelihood {model.log_likelihood(fit, x):.3f}")
still = jaxem.restrict(HMM(Poisson(), 2), fixed={"transition": np.array([[0.9, 0.1], [0.1, 0.9]])})
held = jaxem.check(jaxem.fit(still, still.init(key, x), x))
assert np.allclose(held.params.transition, [[0.9, 0.1], [0.1, 0.9]])
others = HMM(Component(Mixture(Normal(), 2)), 2), HMM(Product({"rt": Normal(), "corr": Bernoulli()}), 2), StateSpace(2)
assert all(not jaxem.core.capabilities(other).lacking["bound"] for other in others)
