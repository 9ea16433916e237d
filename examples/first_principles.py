"""EM from first principles: eighteen statements, each computed.

The statements lead from the expectation of a function to why any hidden-variable model can be fitted, in the order of a
lecture. Most of them are computed for eight counts and a mixture of two Poisson distributions, small enough to
enumerate. Every claim is checked, as it is printed, against a second way of computing it.

Source: the usual chain of argument, as in Bishop (2006), *Pattern Recognition and Machine Learning*, section 9.4, and
Dempster, Laird & Rubin (1977).
"""

import itertools
import textwrap
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from _report import output_folder, require
from jax.scipy.special import gammaln, xlogy

import jaxem
from jaxem import plot
from jaxem.core import constraints
from jaxem.families import Normal, NormalParams, Poisson, PoissonParams
from jaxem.latent.classes import Responsibilities
from jaxem.models import Mixture, MixtureParams

Y = np.array([1.0, 0.0, 2.0, 7.0, 9.0, 1.0, 6.0, 3.0])
MODEL = Mixture(Poisson(), k=2)
ROUNDING = 1e-10


def parameters(share, first, second):
    return MixtureParams(jnp.array([share, 1 - share]), PoissonParams(jnp.array([float(first), float(second)])))


def start():
    return parameters(0.6, 2, 5)


def log_poisson(y, rate):
    return xlogy(y, rate) - rate - gammaln(y + 1)


# One compiled function for each quantity of the theory.
likelihood = jax.jit(lambda theta: MODEL.log_likelihood(theta, Y))
posterior = jax.jit(lambda theta: MODEL.e_step(theta, Y))
elbo = jax.jit(lambda theta, q: jaxem.core.elbo(MODEL, theta, q, Y))
surrogate = jax.jit(lambda theta, at: jaxem.core.surrogate(MODEL, theta, at, Y))
expected = jax.jit(lambda theta, q: MODEL.q_function(theta, q, Y))
maximise = jax.jit(lambda q: MODEL.m_step(q, Y))
em = jax.jit(lambda theta: jaxem.core.em_map(MODEL, theta, Y))
to_free = jax.jit(lambda theta: constraints.inverse(MODEL.constraints, theta))
from_free = jax.jit(lambda free: constraints.forward(MODEL.constraints, free))


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def ended(fit):
    return f"ends {jaxem.Status(int(fit.status)).name}"


def random_posterior(random):
    first = random.uniform(size=Y.size)
    return Responsibilities(jnp.stack([first, 1 - first], axis=1), jnp.zeros(Y.size))


def random_parameters(random):
    return parameters(random.uniform(0.02, 0.98), *random.uniform(0.1, 12, 2))


def t1(_):
    """An expectation belongs to a distribution: E_p f and E_q f differ. A parametric p is written p(x; θ)."""
    x, p, q = np.arange(4), np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    under_p, under_q = (p * x**2).sum(), (q * x**2).sum()
    yield f"f(x) = x², x = 0, 1, 2, 3:   E_p f = {under_p:.1f}   E_q f = {under_q:.1f}"
    require(under_p != under_q, "the expectations differ")
    for theta in (0.2, 0.7):
        binomial = np.array([1, 3, 3, 1]) * theta**x * (1 - theta) ** (3 - x)
        yield f"p(x; θ) = binomial(3, θ):    θ = {theta}   E x = {(binomial * x).sum():.1f} = 3 θ"
        require(abs((binomial * x).sum() - 3 * theta) < ROUNDING, "E x = 3 θ")


def t2(folder):
    """KL(p‖q) is the mean difference of information: ≥ 0, zero only for p = q, not symmetric, growing with distance."""
    random = np.random.default_rng(0)

    def kl(p, q):
        return (p * np.log(p / q)).sum(axis=-1)

    p, q = random.dirichlet(np.ones(4), (2, 1000))
    yield f"1000 random pairs: the smallest KL is {kl(p, q).min():.4f}, KL(p‖p) = {np.abs(kl(p, p)).max():.0f}"
    yield f"not symmetric:     KL(p‖q) = {kl(p[0], q[0]):.3f}   KL(q‖p) = {kl(q[0], p[0]):.3f}"
    require(kl(p, q).min() > 0 and np.abs(kl(p, p)).max() == 0, "KL ≥ 0, and 0 for p = p")
    require(abs(kl(p[0], q[0]) - kl(q[0], p[0])) > 0.01, "KL is not symmetric")

    # For continuous x the sum becomes an integral.
    x = np.linspace(-12, 15, 20001)

    def normal(mean, deviation):
        return np.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation / np.sqrt(2 * np.pi)

    def formula(difference, deviation):
        return np.log(deviation) + (1 + difference**2) / (2 * deviation**2) - 0.5

    by_integral = [kl(normal(0, 1), normal(d, 1)) * (x[1] - x[0]) for d in (0, 1, 2, 3)]
    yield "it grows:          KL(N(0, 1)‖N(d, 1)) for d = 0, 1, 2, 3:   " + "  ".join(f"{v:.3f}" for v in by_integral)
    require(np.abs(by_integral - formula(np.arange(4.0), 1)).max() < 1e-6, "the integral is d² / 2")

    from matplotlib.figure import Figure

    ax = Figure(figsize=(7.0, 4.4), dpi=150, layout="constrained").add_subplot()
    d = np.linspace(-4, 4, 161)
    back = formula(d / 2, 0.5)  # KL(N(d, 2²)‖N(0, 1)): the arguments exchanged, in units of the wider distribution
    curves = {
        "KL(N(0, 1) ‖ N(d, 1)), zero at d = 0": formula(d, 1),
        "KL(N(0, 1) ‖ N(d, 2²))": formula(d, 2),
        "KL(N(d, 2²) ‖ N(0, 1)), not the same": back,
    }
    for colour, (label, values) in zip(plot.COLOURS, curves.items(), strict=False):
        ax.plot(d, values, color=colour, linewidth=2, label=label)
    ax.set(xlabel="difference d of the means", ylabel="KL divergence", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper center")
    ax.figure.savefig(folder / "kl.png")
    yield f"picture:           {folder / 'kl.png'}"


def t3(_):
    """Independent data: the likelihood is a product; the estimate maximises the sum of logs."""
    grid = np.linspace(0.5, 10, 9501)
    sums = np.asarray(log_poisson(Y[:, None], grid[None, :])).sum(axis=0)
    product = float(np.exp(np.asarray(log_poisson(Y, 4.0))).prod())
    total = float(np.asarray(log_poisson(Y, 4.0)).sum())
    yield f"rate 4: product {product:.4e} = exp(sum of logs) {np.exp(total):.4e}; for 50 copies, {product**50}"
    yield f"the best rate on a grid: {grid[sums.argmax()]:.3f}; the mean of the data: {Y.mean():.3f}"
    require(abs(product / np.exp(total) - 1) < ROUNDING, "the product is exp of the sum")
    require(abs(grid[sums.argmax()] - Y.mean()) <= 0.001, "the mean maximises the sum of logs")


def t4(_):
    """Complete data: with z known, the log-likelihood is a sum of logs and separates into one term for each class."""
    z = (Y > 4).astype(int)
    known = jnp.asarray(np.eye(2)[z])

    def complete(rates):
        return (known * log_poisson(jnp.asarray(Y)[:, None], rates[None, :])).sum()

    curvature = np.asarray(jax.hessian(complete)(jnp.array([2.0, 5.0])))
    estimate = maximise(Responsibilities(known, jnp.zeros(Y.size))).components.rates
    means = np.array([Y[z == 0].mean(), Y[z == 1].mean()])
    yield f"∂²/∂λ₁∂λ₂ of the complete log-likelihood: {curvature[0, 1]:.1f}"
    yield f"m_step on the known z: {np.round(estimate, 4)}; the means of the classes: {np.round(means, 4)}"
    require(curvature[0, 1] == 0, "the log-likelihood separates")
    require(largest(estimate - means) < ROUNDING, "each class has its own mean")


def t5(_):
    """With z hidden, the log of a sum couples all parameters through its common denominator: no closed form."""
    theta = start()

    def of_rates(rates):
        return likelihood(theta._replace(components=PoissonParams(rates)))

    rates = theta.components.rates
    joint = np.asarray(theta.weights) * np.exp(np.asarray(log_poisson(jnp.asarray(Y)[:, None], rates[None, :])))
    slope = Y[:, None] / np.asarray(rates) - 1  # the derivative of one Poisson log-probability
    by_hand = (joint / joint.sum(axis=1, keepdims=True) * slope).sum(axis=0)
    by_autodiff = np.asarray(jax.grad(of_rates)(rates))
    curvature = np.asarray(jax.hessian(of_rates)(rates))
    yield f"∂L/∂λ_k = Σ_n [w_k p_k(y_n) / Σ_j w_j p_j(y_n)] (y_n/λ_k − 1): {by_hand.round(6)}"
    yield f"by autodiff: {by_autodiff.round(6)}; and now ∂²L/∂λ₁∂λ₂ = {curvature[0, 1]:.3f}, not 0"
    require(np.abs(by_hand - by_autodiff).max() < ROUNDING, "the gradient by hand is the gradient by autodiff")
    require(abs(curvature[0, 1]) > 0.01, "the parameters are coupled")


def t6(_):
    """For any q over the hidden z: log p(y) = E_q log p(y, z)/q(z) + KL(q‖p(z|y)) = ELBO + KL."""
    random, theta = np.random.default_rng(1), start()
    for _ in range(3):
        q = random_posterior(random)
        bound, divergence = float(elbo(theta, q)), float(MODEL.divergence(q, posterior(theta), Y))
        yield f"a random q:  ELBO {bound:9.4f}  +  KL {divergence:7.4f}  =  {bound + divergence:.6f}"
        require(abs(bound + divergence - float(likelihood(theta))) < ROUNDING, "L = ELBO + KL")
    yield f"log p(y), computed without q:               {float(likelihood(theta)):.6f}"


def t7(_):
    """E-step: with θ fixed, the best q is the posterior; there KL = 0 and the ELBO equals the log-likelihood."""
    random, theta = np.random.default_rng(2), start()
    others = max(float(elbo(theta, random_posterior(random))) for _ in range(500))
    best = float(elbo(theta, posterior(theta)))
    yield f"ELBO at the best of 500 random q: {others:.4f}; at the posterior: {best:.6f}; L: {likelihood(theta):.6f}"
    require(others < best and abs(best - float(likelihood(theta))) < ROUNDING, "the posterior is the best q")


def t8(_):
    """M-step: with q fixed, KL plays no part: maximising the ELBO over θ is an ordinary maximum-likelihood problem."""
    theta = start()
    q = posterior(theta)
    new = maximise(q)
    for when, at in (("before", theta), ("after", new)):
        bound, value = float(elbo(at, q)), float(likelihood(at))
        yield f"{when:<6}  ELBO {bound:.6f}   KL {value - bound:8.6f}   L {value:.6f}"
    slope = jax.grad(lambda free: expected(from_free(free), q))(to_free(new))
    yield f"the largest slope of the ELBO at the new parameters: {largest(slope):.0e}"
    require(largest(slope) < ROUNDING and float(elbo(new, q)) > float(elbo(theta, q)), "the M-step maximises")


def t9(_):
    """Alternating over q and θ, the log-likelihood never falls. A partial M-step that raises the ELBO is enough."""
    for name, algorithm in (("EM", jaxem.EM()), ("one optimiser step per M-step (GEM)", jaxem.GEM(steps=1))):
        fit = jaxem.fit(MODEL, start(), Y, algorithm=algorithm)
        climb = np.asarray(fit.trace)[: int(fit.steps) + 1]
        shown = "  ".join(f"{value:.4f}" for value in climb[:5])
        yield f"{name}: {shown} ... {climb[-1]:.6f}, {fit.steps} steps, smallest rise {np.diff(climb).min():.0e}"
        require(bool(fit.converged) and np.diff(climb).min() >= -ROUNDING, "the log-likelihood never falls")


def t10(_):
    """The ELBO rises and is bounded, so it converges."""
    fit = jaxem.fit(MODEL, start(), Y)
    ceiling = float(np.asarray(log_poisson(Y, Y)).sum())  # each count has its own rate
    yield f"it rises to {fit.objective:.6f} and {ended(fit)}; no mixture of Poissons exceeds {ceiling:.4f}"
    require(bool(fit.converged) and float(fit.objective) < ceiling, "bounded, and converged")
    normal = Mixture(Normal(), k=2)
    narrow = MixtureParams(jnp.array([0.1, 0.9]), NormalParams(jnp.array([9.0, 3.0]), jnp.array([0.01, 6.0])))
    fit = jaxem.fit(normal, narrow, Y)
    yield f"if a class can shrink onto one count, there is no bound: the fit of a normal mixture {ended(fit)}"
    require(int(fit.status) == jaxem.Status.DEGENERATE, "no bound, no convergence")


def t11(_):
    """Incomplete data y, complete data (y, z): L(θ) = Σ_j log Σ_z P(y_j|z, θ) P(z|θ)."""
    theta = start()
    joint = np.asarray(MODEL.table(theta, Y))
    paths = [joint[np.arange(Y.size), z].sum() for z in itertools.product((0, 1), repeat=Y.size)]
    brute = np.logaddexp.reduce(paths)
    yield f"the sum over all {len(paths)} values of z: {brute:.10f}; L: {likelihood(theta):.10f}"
    require(abs(brute - float(likelihood(theta))) < ROUNDING, "L is the sum over z")


def t12(_):
    """By Jensen's inequality, B(θ, θᵢ) ≤ L(θ) everywhere."""
    random = np.random.default_rng(3)
    gaps = []
    for _ in range(500):
        theta = random_parameters(random)
        gaps.append(float(likelihood(theta) - surrogate(theta, start())))
    yield f"L − B at 500 random θ: from {min(gaps):.6f} to {max(gaps):.1f}"
    require(min(gaps) >= -ROUNDING, "B lies below L")


def t13(folder):
    """At θᵢ, B(θᵢ, θᵢ) = L(θᵢ) and the gradients agree; elsewhere B lies below L (see the picture)."""
    theta = start()
    free = to_free(theta)
    of_likelihood, of_bound = (lambda u: likelihood(from_free(u))), (lambda u: surrogate(from_free(u), theta))
    gap = float(of_likelihood(free) - of_bound(free))
    slopes = largest(jax.tree.map(jnp.subtract, jax.grad(of_likelihood)(free), jax.grad(of_bound)(free)))
    yield f"at θᵢ:  L − B = {abs(gap):.0e}   ∇L − ∇B = {slopes:.0e}"
    require(abs(gap) < ROUNDING and slopes < ROUNDING, "B is tangent to L")
    ax = plot.bound(MODEL, parameters(0.5, 3, 4), Y)
    ax.figure.savefig(folder / "bound.png")
    yield f"picture: {folder / 'bound.png'}"


def t14(_):
    """argmax B(θ, θᵢ) = argmax Q(θ, θᵢ): they differ by the entropy of q, which does not depend on θ."""
    random, theta = np.random.default_rng(4), start()
    q = posterior(theta)
    tried = [random_parameters(random) for _ in range(500)]
    bounds = np.array([float(surrogate(other, theta)) for other in tried])
    values = np.array([float(expected(other, q)) for other in tried])
    entropy = float(MODEL.entropy(q, Y))
    apart = bounds - values
    yield f"B − Q at 500 random θ: {apart.min():.10f} to {apart.max():.10f}; H(q): {entropy:.10f}"
    yield f"the best of them: B {bounds.max():.4f}; the M-step: B {surrogate(maximise(q), theta):.4f}"
    require(np.abs(apart - entropy).max() < ROUNDING, "B − Q is the entropy")
    require(float(surrogate(maximise(q), theta)) > bounds.max(), "the M-step is the maximum")


def t15(_):
    """Each iterate is feasible and no worse than the last, and the sequence converges."""
    theta = start()
    for step in range(1, 41):
        new = em(theta)
        inside = all(bool(leaf) for leaf in jax.tree.leaves(constraints.contains(MODEL.constraints, new)))
        rise, change = float(likelihood(new) - likelihood(theta)), largest(jax.tree.map(jnp.subtract, new, theta))
        require(inside and rise >= -ROUNDING, "each iterate is feasible and better")
        if step in (1, 5, 20, 40):
            yield f"step {step:>2}:  inside its space   L rose by {rise:.1e}   θ moved by {change:.1e}"
        theta = new
    require(change < 1e-6, "the sequence converges")


def t16(_):
    """The result of EM depends on its start."""
    ends = {}
    for share, first, second in ((0.6, 2, 5), (0.6, 5, 2), (0.5, 3, 3)):
        fit = jaxem.fit(MODEL, parameters(share, first, second), Y)
        ends[first, second] = float(fit.objective)
        rates = np.asarray(fit.params.components.rates).round(4)
        yield f"from rates ({first}, {second}): to {rates}, L {fit.objective:.6f}"
    yield "exchanged classes reach the same maximum; two equal classes stay equal, at a saddle, and the fit warns"
    require(abs(ends[2, 5] - ends[5, 2]) < 1e-6 and ends[3, 3] < ends[2, 5] - 1, "the start decides")
    require(bool(fit.coincident), "a warning of equal classes")


def t17(_):
    """A fit can stop when the update is smaller than a threshold."""
    for tol in (1e-2, 1e-4, 1e-8):
        fit = jaxem.fit(MODEL, start(), Y, stop=jaxem.fitting.parameter_change(tol))
        rates, again = fit.params.components.rates, em(fit.params).components.rates
        change = float(jnp.abs(again - rates).max() / again.max())
        yield f"threshold {tol:.0e}: {fit.steps:>3} steps; the next update would be {change:.1e} of the parameter"
        require(bool(fit.converged) and change <= tol, "the update is below the threshold")


def t18(_):
    """Any P(y, z|θ) with observed y can be fitted: here counts with excess zeros, from one function."""

    def log_joint(theta, y):  # z = 0: a forced zero; z = 1: a Poisson count
        forced = jnp.where(y == 0, jnp.log(theta["forced"]), -jnp.inf)
        return jnp.stack([forced, jnp.log(1 - theta["forced"]) + log_poisson(y, theta["rate"])])

    y = np.concatenate([np.zeros(6), Y])
    model = jaxem.from_log_joint(log_joint, constraints={"forced": jaxem.UnitInterval(), "rate": jaxem.Positive()})
    fit = jaxem.check(jaxem.fit(model, {"forced": 0.5, "rate": 2.0}, y))
    forced, rate = float(fit.params["forced"]), float(fit.params["rate"])
    zeros = forced + (1 - forced) * np.exp(-rate)
    yield f"forced zeros {forced:.4f}, rate {rate:.4f}, L {fit.objective:.6f}"
    yield "at the maximum the model reproduces the mean of the data and their share of zeros:"
    yield f"mean {(1 - forced) * rate:.5f} and {y.mean():.5f};   share of zeros {zeros:.5f} and {(y == 0).mean():.5f}"
    require(abs((1 - forced) * rate - y.mean()) < 1e-4 and abs(zeros - (y == 0).mean()) < 1e-4, "the maximum")


STATEMENTS = (t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15, t16, t17, t18)


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    print(f"EM from first principles, on the counts {Y.astype(int).tolist()}")
    for number, statement in enumerate(STATEMENTS, start=1):
        claim = textwrap.wrap(statement.__doc__ or "", 112)
        print(f"\nT{number:<3} " + "\n     ".join(claim))
        for line in statement(folder):
            print(f"       {line}")
    print(f"\nAll {len(STATEMENTS)} statements hold.")


if __name__ == "__main__":
    main()
