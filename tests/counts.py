"""How often a test does what the attack corpus asks for by number."""

from __future__ import annotations

import pytest

LIMIT = pytest.mark.timeout(3600)


def counts(names: str, few: object, corpus: object) -> pytest.MarkDecorator:
    """Parameters ``names``, as in pytest: of the default run; and marked ``thorough``, as the corpus asks."""
    full = corpus if isinstance(corpus, tuple) else (corpus,)
    return pytest.mark.parametrize(names, [few, pytest.param(*full, marks=(pytest.mark.thorough, LIMIT))])
