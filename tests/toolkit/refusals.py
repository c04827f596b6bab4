"""The type of the fixture ``refused``."""

from collections.abc import Callable

Refusal = Callable[..., str]
