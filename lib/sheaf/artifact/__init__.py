"""How a paper is declared, run, recorded, judged and shown."""
