"""What the figures of a comparison say: which artifact to take, which ones another one beats, and why."""

from toolkit.comparison.verdicts.judge import judge

__all__ = ["judge"]
