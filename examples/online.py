"""Stepwise EM, which updates the parameters after each batch of a stream, compared with EM on all data.

The data are ten yes-or-no answers of 100,000 simulated customers, who are of four kinds that overlap. EM needs all of
them for one M-step. Stepwise EM takes an M-step after every thousand, from running statistics that forget old batches
slowly. The unit of cost is one pass over the data, an E-step for each row.

Source: Cappé & Moulines (2009).
"""

from collections.abc import Sequence

import jax
import numpy as np
from _report import heading, output_folder, require

import jaxem
from jaxem.families import Bernoulli, BernoulliParams
from jaxem.models import Mixture, MixtureParams

N, BATCH, PASSES = 100_000, 1_000, 10


def main(arguments: Sequence[str] | None = None) -> None:
    folder = output_folder(arguments, __doc__)
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    habits = rng.beta(1.0, 1.5, (4, 10))
    truth = MixtureParams(np.array([0.4, 0.3, 0.2, 0.1]), BernoulliParams(habits))
    model = Mixture(Bernoulli(), k=4)
    x = model.sample(jax.random.key(1), truth, N).astype(np.float64)

    # A poor start, at which the four kinds hardly differ.
    start = MixtureParams(np.full(4, 0.25), BernoulliParams(0.5 + 0.02 * rng.normal(size=(4, 10))))
    ever = jaxem.fitting.parameter_change(0.0)  # never met: both fits run for max_steps
    em = jaxem.fit(model, start, x, stop=ever, max_steps=50)
    online = jaxem.fit(
        model,
        start,
        x,
        algorithm=jaxem.OnlineEM(batch_size=BATCH),
        stop=ever,
        max_steps=PASSES,
        key=jax.random.key(2),
    )

    best = float(jaxem.check(jaxem.fit(model, truth, x, tol=1e-7)).objective)
    gaps = [(best - np.asarray(fit.trace)) / N for fit in (em, online)]
    heading(f"Log-likelihood below the optimum, per observation ({N:,} rows, batches of {BATCH:,})")
    print(f"{'passes over the data':<22}{'EM':>14}{'OnlineEM':>14}")
    for passes in (1, 2, 3, 5, PASSES):
        print(f"{passes:<22}{gaps[0][passes]:>14.3e}{gaps[1][passes]:>14.3e}")
    as_good = int(np.argmax(gaps[0] <= gaps[1][1]))
    print(f"\nOne pass of OnlineEM comes as near as {as_good} passes of EM.")
    print(f"The objective of all data after each pass, needed for the picture, doubles the cost: {online.evaluations}")
    print(f"E-steps for {online.steps} passes. At the optimum the log-likelihood is {best / N:.6f} per row.")
    require(as_good >= 10, "one pass of OnlineEM is worth at least ten of EM here")
    require(gaps[1][PASSES] < gaps[1][1] / 20, "ten passes come twenty times nearer than one")
    require(gaps[1][PASSES] > 0, "the optimum is above where OnlineEM is")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=150, layout="constrained")
    ax = figure.subplots()
    ax.loglog(np.arange(1, len(gaps[0])), gaps[0][1:], color="C0", label="EM: one M-step a pass")
    ax.loglog(
        np.arange(1, PASSES + 1),
        gaps[1][1 : PASSES + 1],
        "o-",
        color="C1",
        label=f"OnlineEM: an M-step every {BATCH:,} rows",
    )
    ax.set(
        xlabel="passes over the data",
        ylabel="log-likelihood below the optimum, per row",
        title=f"{N:,} rows: learning while they come",
    )
    ax.legend(frameon=False)
    ax.grid(True, which="major", alpha=0.3)
    figure.savefig(folder / "online.png")
    print(folder / "online.png")


if __name__ == "__main__":
    main()
