"""Inference over one kind of hidden structure: classes, chains or factors, independent of families and models."""
