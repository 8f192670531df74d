"""What users' words are refused with."""


class VocabularyError(ValueError):
    """Words or a change of them that cannot be: says what was expected, what came, and what to do."""
