"""What the library chooses for a fit: the algorithm, the blocks of rows, how hard it compiles, how lanes run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.algorithms.protocol import Algorithm
from jaxem.core import frame_output, tables, trees
from jaxem.core.checks import whole_number
from jaxem.core.compilation import effort_for, runs
from jaxem.core.conversion import convert
from jaxem.core.data import Data, Sharded, count
from jaxem.core.expectation import default_block_size
from jaxem.core.model import Params, has, is_additive
from jaxem.fitting import work
from jaxem.fitting.fit import choose, default
from jaxem.fitting.lanes import lanes_abreast
from jaxem.fitting.problems import Problems


class Explanation(NamedTuple):
    """What ``fit`` or ``fit_restarts`` would choose; prints as a table."""

    algorithm: Any  # force it by ``algorithm=``
    rows: int  # observations of the data, on one device
    rows_per_block: int | None  # of one pass; force it by ``EM(block_size=...)``; None without additive statistics
    seconds: float  # a rough estimate for 100 iterations of EM, on one core of a CPU, compiled at full effort
    effort: str  # how hard the fit is compiled; force it by ``with jaxem.fitting.effort(...)``
    lanes: int  # the number of starts
    side_by_side: int  # how many lanes run side by side; force it by ``batch_size=``

    to_frame = frame_output.to_frame

    def as_dict(self) -> dict[str, Any]:
        """What was chosen as one row, by the names of the fields.

        Returns:
            A dict: a list of one for each field.
        """
        return {name: [repr(value) if name == "algorithm" else value] for name, value in self._asdict().items()}

    def __str__(self) -> str:
        blocks = "all at once" if self.rows_per_block is None else f"{min(self.rows_per_block, self.rows)} in a block"
        together = "one after another" if self.side_by_side == 1 else f"{self.side_by_side} side by side"
        rows = [
            ["algorithm", repr(self.algorithm), "algorithm="],
            ["rows", f"{self.rows}, {blocks}", "EM(block_size=)"],
            ["one fit", f"about {tables.number(self.seconds, 1)} s", ""],
            ["compiled", f"{self.effort} effort", "with jaxem.fitting.effort(...)"],
            ["starts", f"{self.lanes}, {together}", "batch_size="],
        ]
        return "\n".join(tables.columns([["", "chosen", "forced by"], *rows], "<<<"))

    __repr__ = __str__


def explain(
    model: Any,
    params: Params,
    data: Data,
    *,
    algorithm: Algorithm | None = None,
    restarts: int = 1,
    max_steps: int = 1000,
) -> Explanation:
    """What ``fit`` would choose for this model and these data, or ``fit_restarts`` with so many starts.

    Arguments:
        model: the model.
        params: any parameters of the model, or a ``Fit``; only their shapes are used.
        data: the data, in any form that ``fit`` takes.
        algorithm: as for ``fit``.
        restarts: the number of starts; default 1.
        max_steps: as for ``fit``.

    Returns:
        An ``Explanation``; print it.

    Raises:
        ValueError: parameters, data and model do not fit each other, or an option is wrong.
    """
    chosen = choose(algorithm, model)
    params, data = convert(model, params, data)
    algorithm = default(chosen, model, params, data) if algorithm is None and restarts == 1 else chosen
    lanes = whole_number("explain: restarts", restarts, 1)
    local = data.data if isinstance(data, Sharded) else data
    block = None
    if is_additive(model) and has(model, "e_step"):
        block = getattr(algorithm, "block_size", None) or default_block_size(model, params, local)
    seconds = work.fit(model, params, local)
    with runs(lanes):
        effort = "full" if jax.default_backend() != "cpu" or trees.is_traced(params, data) else effort_for(seconds)
    starts = jax.eval_shape(lambda: jax.tree.map(lambda leaf: jnp.stack([leaf] * lanes), params))
    abreast = lanes_abreast(Problems.one(model, data), starts, max_steps, lanes)
    return Explanation(algorithm, count(local), block, seconds, effort, lanes, min(abreast, lanes))
