"""Linear recurrences in modal form: one token of many channels at a time, and the state that a prompt leaves behind.

The definition is `reference.py`, the layout of parameters and state `modes.py`:
    y_t = Re sum_n R_n x_t,n + h_0 z_t        x_t+1,n = lambda_n x_t,n + z_t        (Massaroli et al. 2023, section 3)
"""

from .modes import TILE, Modes

__all__ = ["TILE", "Modes"]
