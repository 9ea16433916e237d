# %% [markdown]
# # Coming from R: mclust, poLCA, flexmix, depmixS4
#
# A fit returns parameters, and every function takes the model, the fit and the data: `f(model, fit, data)`. Classes and
# categories count from 0. All criteria are -2 log-likelihood plus a penalty, so that lower is better; mclust has the
# other sign.

# %%
import jax
import numpy as np

import jaxem
from jaxem import datasets
from jaxem.families import Bernoulli, Categorical, MultivariateNormal, Normal, Poisson, Product, Regression
from jaxem.gates import Softmax
from jaxem.models import HMM, Mixture

jax.config.update("jax_enable_x64", True)
key = jax.random.key(0)

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
x = datasets.old_faithful()
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
assert abs(float(fit.objective) + 84.34) < 0.01  # as depmixS4
print("means", np.round(fit.params.emissions.means, 3), "stay", np.round(np.diag(fit.params.transition), 3))
print("path of the first series:", "".join(map(str, model.predict(fit, sequences)[0, :60])))
assert not jaxem.core.capabilities(HMM(Product({"rt": Normal(), "corr": Bernoulli()}), 2)).lacking["bound"]
