"""Transparent systems for the six tasks that need no model, and the same tasks through one."""
