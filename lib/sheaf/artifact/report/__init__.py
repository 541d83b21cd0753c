"""The report: static pages, the README's score table and its picture, built from records and paper.toml alone."""

from sheaf.artifact.report.build import build, scoreboard_markdown, scoreboard_svg, update_readme

__all__ = ["build", "scoreboard_markdown", "scoreboard_svg", "update_readme"]
