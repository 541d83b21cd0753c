"""Decentralized training of foundation models (DT-FM): networks, cost model, placement search, simulator, live check."""
