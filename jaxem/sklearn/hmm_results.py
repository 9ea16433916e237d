"""What a hidden Markov model tells about sequences, from the parameters in its attributes."""

import copy
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from jaxem import inference
from jaxem.core.checks import whole_number
from jaxem.core.data import Dataset
from jaxem.core.sizes import padded_size
from jaxem.gates.stationary import distribution
from jaxem.models import HMM
from jaxem.models.hmm_params import HMMParams
from jaxem.sklearn.base import doubles
from jaxem.sklearn.hmm_reading import of_rows


class InUse(NamedTuple):
    """A model for results, and what it was made of."""

    made_of: tuple[dict[str, np.ndarray], dict[str, Any]]
    model: HMM
    params: HMMParams


# Beside the estimators, not in them: nothing that predicts changes what scikit-learn compares, copies and pickles.
_IN_USE: WeakKeyDictionary[Any, InUse] = WeakKeyDictionary()


def _same(a: Any, b: Any) -> bool:
    """Whether two models are made of the same arrays, bit by bit, and the same arguments."""
    (arrays, arguments), (others, further) = a, b
    same = arguments == further and arrays.keys() == others.keys()
    alike = lambda x, y: x.dtype == y.dtype and np.array_equal(x, y)
    return same and all(alike(array, others[letter]) for letter, array in arrays.items())


class Results:
    """The functions of a hidden Markov model that use its parameters."""

    def _known(self: Any, X: Any, lengths: Any) -> tuple[HMM, HMMParams, Dataset, np.ndarray]:
        """The model without priors, its parameters from the attributes, and the sequences."""
        X = self._checked_matrix(X, False)
        return *self._known_model(), *self._sequences(X, lengths)

    def _known_model(self: Any) -> tuple[HMM, HMMParams]:
        """The model without priors, and its parameters as JAX's arrays, made anew where an attribute has changed.

        Raises ``ValueError`` where the attributes are no parameters of this model.
        """
        kept = _IN_USE.get(self)
        if kept is None or not _same(kept.made_of, self._made_of()):
            self._check()
            made_of = jax.tree.map(copy.copy, self._made_of())  # an array may be changed in place
            with doubles():
                kept = InUse(made_of, self._plain(), jax.tree.map(jnp.array, self._assembled(made_of[0])))
            _IN_USE[self] = kept
        return kept.model, kept.params

    def _made_of(self: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the model without priors follows from: the attributes by letter, and arguments by name."""
        return self._current(), {name: getattr(self, name) for name in self._shaping}

    def _plain(self: Any) -> HMM:
        return self._model(self._width(), "", {})

    def score(self: Any, X: Any, lengths: Any = None) -> float:
        """The log-likelihood, summed over all sequences.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The log-likelihood, without log-prior.
        """
        with doubles():
            model, params, data, _ = self._known(X, lengths)
            return float(np.asarray(model.log_prob(params, data)).sum())

    def score_samples(self: Any, X: Any, lengths: Any = None) -> tuple[float, np.ndarray]:
        """The log-likelihood, and the posterior probability of each state at each step.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The log-likelihood, and probabilities (N, K).
        """
        with doubles():
            model, params, data, inside = self._known(X, lengths)
            score = float(np.asarray(model.log_prob(params, data)).sum())
            return score, of_rows(np.asarray(model.predict_proba(params, data)), inside)

    def predict_proba(self: Any, X: Any, lengths: Any = None) -> np.ndarray:
        """The posterior probability of each state at each step, given the whole sequence.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            Probabilities (N, K); NaN for a sequence that is impossible under the parameters.
        """
        with doubles():
            model, params, data, inside = self._known(X, lengths)
            return of_rows(np.asarray(model.predict_proba(params, data)), inside)

    def decode(self: Any, X: Any, lengths: Any = None, algorithm: str | None = None) -> tuple[float, np.ndarray]:
        """The most probable states.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.
            algorithm: ``"viterbi"``: the most probable path; ``"map"``: the most probable state at each step by itself.
                Default: that of the constructor.

        Returns:
            Of ``"viterbi"`` the log-probability of the path together with X; of ``"map"`` the sum over steps of the
            probability of the state. And the states (N,), -1 in a sequence that is impossible.

        Raises:
            ValueError: ``algorithm`` is neither; or X or ``lengths`` do not fit the model.
        """
        algorithm = algorithm or self.algorithm
        if algorithm == "map":
            found = self.predict_proba(X, lengths)
            states = np.where(np.isnan(found).any(axis=1), -1, found.argmax(axis=1))
            return float(found.max(axis=1).sum()), states
        if algorithm != "viterbi":
            raise ValueError(f"algorithm must be 'viterbi' or 'map'; got {algorithm!r}")
        with doubles():
            model, params, data, inside = self._known(X, lengths)
            path, value = model.decode(params, data)
            return float(np.asarray(value).sum()), of_rows(np.asarray(path), inside).astype(int, copy=False)

    def predict(self: Any, X: Any, lengths: Any = None) -> np.ndarray:
        """The states that ``decode`` returns.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            States (N,), from 0 to K - 1.
        """
        return self.decode(X, lengths)[1]

    def sample(
        self: Any, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One sequence drawn from the model.

        Arguments:
            n_samples: the number of steps.
            random_state: a seed or a generator; default: that of the constructor.
            currstate: the state of the first step; default: drawn from ``startprob_``.

        Returns:
            Observations (n_samples, D), and states (n_samples,).

        Raises:
            ValueError: ``n_samples`` is not a whole number of at least 1.
        """
        self._check()
        n_samples = whole_number("sample: n_samples", n_samples, 1)
        random = check_random_state(self.random_state if random_state is None else random_state)
        with doubles():
            params = self._assembled(self._current())
            if currstate is not None:
                params = params._replace(initial=np.eye(len(params.initial))[currstate])
            drawn = self._drawn().sample_joint(self._key(random), params, 1, padded_size(n_samples))
            states, x = (np.asarray(part)[0, :n_samples] for part in drawn)  # another length seldom compiles
            return self._as_drawn(x), states.astype(int)

    def _drawn(self: Any) -> HMM:
        """The model that samples are drawn from."""
        return self._plain()

    def _as_drawn(self: Any, x: np.ndarray) -> np.ndarray:
        return x

    def bic(self: Any, X: Any, lengths: Any = None) -> float:
        """The Bayesian information criterion, -2 log L + p log n; lower is better.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The criterion. What ``params`` leaves out and probabilities of zero are not counted in p; n is the number of
            steps with an observation.
        """
        return self._by_criterion(inference.bic, X, lengths)

    def aic(self: Any, X: Any, lengths: Any = None) -> float:
        """Akaike's information criterion, -2 log L + 2 p; lower is better.

        Arguments:
            X: the observations of all sequences, one sequence after the other, (N, D).
            lengths: the length of each sequence; default: one sequence.

        Returns:
            The criterion, with p as for ``bic``.
        """
        return self._by_criterion(inference.aic, X, lengths)

    def _by_criterion(self: Any, criterion: Any, X: Any, lengths: Any) -> float:
        with doubles():
            model, params, data, _ = self._known(X, lengths)
            return float(criterion(self._restricted(model, params), params, data))

    def get_stationary_distribution(self: Any) -> np.ndarray:
        """The distribution of the states that the transition matrix leaves as it is.

        Returns:
            Probabilities (K,).
        """
        check_is_fitted(self, "transmat_")
        with doubles():
            return np.asarray(distribution(jnp.asarray(self._floats("transmat_"))))
