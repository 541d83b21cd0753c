"""Laughing Hyena: distil any long-convolution model into a recurrence, and decode in constant time."""
