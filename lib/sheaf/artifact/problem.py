"""Problem: one disagreement between the parts of the project, with where it is and how it is mended."""

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """``file`` is relative to the root; ``key`` names the place in it; ``says`` what is wrong; ``fix`` what to do."""

    file: str
    key: str
    says: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.says}; {self.fix}"
