"""Who drives: the loop, its stopping rules, its verdict."""
