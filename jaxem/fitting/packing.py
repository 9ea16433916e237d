"""Trees of arrays as named arrays, and back; and the structure of a tree as JSON."""

import re
from typing import Any

import jax
import numpy as np

from jaxem.core import constraints
from jaxem.core.model import spaces_of

Structure = Any  # a JSON value


def pack(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf under a name of its own; a random key as the numbers that it consists of."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    return dict(zip(_names(tree), map(np.asarray, leaves), strict=True))


def unpack(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree like ``template`` (of arrays, or of shapes); ``ValueError`` where the arrays do not fit it."""
    names, (leaves, structure) = _names(template), jax.tree.flatten(template)
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))
        raise ValueError(f"the state in the file has another structure; it differs in {', '.join(odd[:3])}")
    return jax.tree.unflatten(
        structure, [_placed(name, arrays[name], at) for name, at in zip(names, leaves, strict=True)]
    )


def _placed(name: str, array: np.ndarray, like: Any) -> Any:
    found = jax.numpy.asarray(array)
    if _is_key(like):
        found = jax.random.wrap_key_data(found, impl=like.dtype._impl)
    if (found.shape, found.dtype) != (like.shape, like.dtype):
        raise ValueError(
            f"the state in the file has {name} as {array.dtype}{list(array.shape)}, where {like.dtype}"
            f"{list(like.shape)} belongs"
        )
    return found


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _names(tree: Any) -> list[str]:
    """Names that are unique by their numbers, and fit for a file."""
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]
    return [f"{number}.{re.sub('[^A-Za-z0-9_.]+', '_', path)}" for number, path in enumerate(paths)]


def structure_of(tree: Any) -> dict[str, Structure]:
    """The structure of a tree. Python's own containers can be rebuilt from it, others only be recognised."""
    return {"text": str(jax.tree.structure(tree)), "own": _write(tree)}


def like(structure: dict[str, Structure], model: Any, example: Any) -> Any:
    """A tree of that structure: ``example`` where it is given, else the model's constraints or Python's containers.

    ``ValueError`` where none of them has that structure.
    """
    fits = lambda found: str(found) == structure["text"]
    if example is not None:
        if not fits(jax.tree.structure(example)):
            raise ValueError(f"params have another structure than those of the run, {structure['text']}")
        return example
    spaces = jax.tree.structure(spaces_of(model), is_leaf=constraints.is_space)
    if fits(spaces):
        return jax.tree.unflatten(spaces, [0.0] * spaces.num_leaves)
    own = _read(structure["own"])
    if fits(jax.tree.structure(own)):
        return own
    raise ValueError(
        f"the parameters of the run are records of a class of your own ({structure['text']}), which a file cannot "
        "make: pass any parameters of that structure, such as the start, as params=..."
    )


def _write(tree: Any) -> Structure:
    kind = type(tree)
    if tree is None:
        return None
    if kind is dict and all(isinstance(key, str) for key in tree):
        return {"dict": [[key, _write(part)] for key, part in tree.items()]}
    if kind in (tuple, list):
        return {kind.__name__: [_write(part) for part in tree]}
    return "leaf"


def _read(structure: Structure) -> Any:
    if structure is None:
        return None
    if structure == "leaf":
        return 0.0
    [(kind, parts)] = structure.items()
    if kind == "dict":
        return {key: _read(part) for key, part in parts}
    return tuple(map(_read, parts)) if kind == "tuple" else list(map(_read, parts))
