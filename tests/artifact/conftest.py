"""What several of these tests start from."""

from toy_fixtures import reproduced, reproduced_once, toy

__all__ = ["reproduced", "reproduced_once", "toy"]
