"""What the registry says when it cannot do what was asked.

RegistryError                        every message below is safe to show to a client
├── InvalidAdapter          422      the pushed files are not an adapter that the base model can serve
├── NotFound                404      no adapter, version, revision or key of that name
├── Conflict                409      it exists, but not in a state that allows this
│   ├── NothingToRollBack   409      no earlier revision serves anything else
│   ├── NotLetThrough       409      the version has not passed its gate, or only against another than serves now
│   └── Stopped             409      automatic change is stopped, of the adapter or of all
├── RevisionMismatch        412      the deployment is not at the revision that the caller saw
├── InvalidName             422      a name that the naming rules refuse
├── InvalidValue            422      a number, time or text outside what is allowed
└── StoreFailure            503      the artifact store could not be read or written

No message holds a path of the machine, a stack or a key.
"""


class RegistryError(Exception):
    """Base of the registry's errors.

    Attributes:
        status: the HTTP status that the gateway answers with.
        code: a stable word for programs.
        param: the field or name that was wrong, where there is one.
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidAdapter(RegistryError):
    """The pushed content cannot be served; nothing was stored.

    Args:
        message: what was wrong, where, and what would be right.
        reason: a stable slug, such as ``dora_unsupported``.
        file: the file's name inside the upload.
        tensor: the tensor's name inside the file.
    """

    status = 422
    code = "invalid_adapter"

    def __init__(self, message: str, *, reason: str, file: str | None = None, tensor: str | None = None) -> None:
        super().__init__(message, param=file)
        self.reason = reason
        self.file = file
        self.tensor = tensor


class NotFound(RegistryError):
    """No such thing, or none that the asker may know of."""

    status = 404
    code = "not_found"


class Conflict(RegistryError):
    """It exists, but not in a state that allows this; nothing was changed."""

    status = 409
    code = "conflict"


class NothingToRollBack(Conflict):
    """The deployment has no earlier revision that serves another version."""

    code = "nothing_to_roll_back"


class NotLetThrough(Conflict):
    """Its gate has not let the version through, or held it against another than serves now; only force helps."""

    code = "not_let_through"


class Stopped(Conflict):
    """Somebody stopped automatic change, of the adapter or of all; a person's change is not held up by it."""

    code = "stopped"


class RevisionMismatch(RegistryError):
    """Somebody else changed the deployment since the caller looked; nothing was changed."""

    status = 412
    code = "revision_mismatch"


class InvalidValue(RegistryError):
    """A value outside what is allowed; `param` says which."""

    status = 422
    code = "invalid_value"


class InvalidName(RegistryError):
    """The name breaks the naming rules of `registry.names`."""

    status = 422
    code = "invalid_name"


class StoreFailure(RegistryError):
    """The artifact store could not be read or written, or its content is damaged."""

    status = 503
    code = "artifact_store_unavailable"
