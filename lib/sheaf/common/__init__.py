"""What several papers need: statistics, plots, timing, data folders, links, small models."""
