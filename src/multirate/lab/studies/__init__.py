"""The experiments of the paper, and ours beside them: which trials each consists of."""
