"""The one exception that a user's mistake raises, and how others' messages enter it."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence naming the value and what is allowed."""


def cause(error: BaseException) -> str:
    """The first line of another library's message, cut to a readable length; its class where it has none."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return text if len(text) <= 160 else text[:157] + "..."


def kind_and_cause(error: BaseException) -> str:
    """The class of another library's error, and its `cause`."""
    kind, words = type(error).__name__, cause(error)
    return kind if words == kind else f"{kind}: {words}"
