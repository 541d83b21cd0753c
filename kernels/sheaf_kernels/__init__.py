"""Compiled operations of the papers, one folder each; every one has a readable reference in plain Python or torch."""
