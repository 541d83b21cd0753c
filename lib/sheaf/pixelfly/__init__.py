"""Pixelated Butterfly: patterns, recipe, layers, models and experiments of Dao et al., ICLR 2022."""
