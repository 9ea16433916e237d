"""EM from one function, and why its start matters: three coins.

Coin A is tossed first. After heads, coin B is tossed and its side is recorded; after tails, coin C. Only the record is
observed: 1, 1, 0, 1, 0, 0, 1, 0, 1, 1. The parameters are the probabilities of heads of A, B and C.

Source: Li Hang (2012), *Statistical Learning Methods*, chapter 9, example 9.1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from _report import compare, heading, require
from jax.scipy.special import xlogy

import jaxem


class Coins(NamedTuple):
    a: jax.Array  # each is a probability of heads
    b: jax.Array
    c: jax.Array


def log_joint(coins, y):
    """log p(y, z), (2,), for the two values of z: coin B was tossed, or coin C."""

    def toss(heads):
        return xlogy(y, heads) + xlogy(1 - y, 1 - heads)

    return jnp.stack([jnp.log(coins.a) + toss(coins.b), jnp.log(1 - coins.a) + toss(coins.c)])


def main():
    jax.config.update("jax_enable_x64", True)
    y = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    model = jaxem.from_log_joint(log_joint, constraints=jaxem.UnitInterval())
    # No formula is given for the M-step, so it ascends by gradients; 40 steps are enough to reach the maximum.
    algorithm = jaxem.GEM(steps=40)

    rows, fits = [], []
    for start, book in (
        (Coins(0.5, 0.5, 0.5), ("0.5", "0.6", "0.6")),
        (Coins(0.4, 0.6, 0.7), ("0.4064", "0.5368", "0.6432")),
    ):
        fit = jaxem.check(jaxem.fit(model, start, y, algorithm=algorithm))
        heading(f"From A = {start.a}, B = {start.b}, C = {start.c}")
        print(fit)
        fits.append(fit)
        for name, figure, ours in zip("ABC", book, fit.params, strict=True):
            rows.append((f"{name} from ({start.a}, {start.b}, {start.c})", figure, float(ours)))

    heading("Comparison with the book")
    compare("Li (2012)", rows)

    heading("Two estimates with the same likelihood")
    for fit in fits:
        coins = fit.params
        heads = coins.a * coins.b + (1 - coins.a) * coins.c
        print(f"log-likelihood {fit.objective:.10f}   chance of a 1: {heads:.10f}")
        require(abs(float(heads) - 0.6) < 1e-6, "the chance of a 1 is 6 in 10")
    print("The data determine only the chance of a 1, not the coins. Which coins EM returns depends on its start.")
    require(abs(float(fits[0].objective - fits[1].objective)) < 1e-8, "the likelihoods are equal")


if __name__ == "__main__":
    main()
