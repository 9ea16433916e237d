"""Inference over one kind of hidden structure: classes, chains, factors; free of families and of parameters' names."""
