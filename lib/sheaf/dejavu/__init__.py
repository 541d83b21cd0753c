"""Deja Vu: contextual sparsity for language models at inference time (Liu et al., ICML 2023)."""
