"""The exact metric of each task, as published and audited: one module per task."""
