"""What a user can get wrong, each said in one sentence."""


class UsageError(ValueError):
    """A mistake the user can fix; its message is one sentence saying how."""


class WriteError(UsageError, OSError):
    """A file or folder that the disk would not take, named in the message."""
