"""WONDERBREAD: six tasks on recorded business workflows, their metrics as published and audited, and offline systems."""
