"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence naming the value and what is allowed."""
