"""The errors that pgmeaning raises.

PgmeaningError
├── SettingsError          a setting is missing or wrong
├── ModelError             a model is unknown, cannot be loaded here, or cannot do what was asked
│   ├── ModelNotFound      no model of that name
│   ├── ModelUnavailable   known, but it cannot run here (an extra, a checkpoint or a backend is missing)
│   │   ├── EndpointDown   its endpoint does not answer, or rejects our key, whatever the input
│   │   └── ModelDrifted   what runs under its name gives other vectors than its probes had
│   └── BadVector          the model returned NaN, infinity, zeros or a wrong length
├── InputError             this one input cannot be embedded; others can
├── ArgumentError          an argument has a wrong type or makes no sense; also a ValueError
├── CollectionError        a collection is unknown, broken, paused or exists already
├── DatabaseError          the database raised an error, or there is no connection
│   ├── ArgumentRefused    the database finds that an argument makes no sense; also an ArgumentError
│   ├── ConnectionFailed   the server cannot be reached, or the connection to it was lost
│   ├── PermissionDenied   a privilege is missing
│   └── SchemaOutdated     the database's schema is older or newer than this package
├── ServerError            the embedded PostgreSQL cannot be started, stopped or found
└── TimedOut               no answer came in time, or a statement was cancelled, as by statement_timeout

`detail` and `hint` say more about the error and what to do; `sqlstate` is set if the database raised it; `public` is
what whoever asked from SQL may be told, if not all of it.
"""

from __future__ import annotations


class PgmeaningError(Exception):
    """Base of all errors: `detail` says more about it, `hint` says what to do next.

    `sqlstate` is the server's, if the database raised the error. `public` is for users of the database, where the
    message has what only the sidecar's log may say, such as an endpoint's reply; None: they may be told all of it.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, detail: str | None = None, sqlstate: str | None = None,
        public: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.hint = hint
        self.detail = detail
        self.sqlstate = sqlstate
        self.public = public

    def __str__(self) -> str:
        message = super().__str__()
        message += f": {self.detail}" if self.detail else ""
        return f"{message} ({self.hint})" if self.hint else message


class SettingsError(PgmeaningError):
    """A setting is missing or wrong."""


class ModelError(PgmeaningError):
    """A model is unknown, cannot be loaded here, or cannot do what was asked."""


class ModelNotFound(ModelError):
    """No model of that name."""


class ModelUnavailable(ModelError):
    """The model is known, but cannot run here."""


class EndpointDown(ModelUnavailable):
    """The model's endpoint does not answer, or rejects our key, whatever the input: no row is to blame."""


class ModelDrifted(ModelUnavailable):
    """What runs under the model's name gives other vectors than its probes had: no row is to blame."""


class BadVector(ModelError):
    """A model returned NaN, infinity, zeros or a wrong length."""


class InputError(PgmeaningError):
    """This one input cannot be embedded; others can."""


class ArgumentError(PgmeaningError, ValueError):
    """An argument has a wrong type or makes no sense."""


class CollectionError(PgmeaningError):
    """A collection is unknown, broken, paused or exists already."""


class DatabaseError(PgmeaningError):
    """The database raised an error, or there is no connection; SQLSTATE, DETAIL and HINT are the server's."""


class ArgumentRefused(DatabaseError, ArgumentError):
    """The database finds that an argument makes no sense."""


class ConnectionFailed(DatabaseError):
    """The server cannot be reached, refuses the connection, or the connection to it was lost."""


class PermissionDenied(DatabaseError):
    """A privilege is missing."""


class SchemaOutdated(DatabaseError):
    """The database's pgmeaning schema is older or newer than this package."""


class ServerError(PgmeaningError):
    """The embedded PostgreSQL cannot be started, stopped or found."""


class TimedOut(PgmeaningError):
    """No answer came in time, or a statement was cancelled, as by statement_timeout."""


def describe(error: BaseException) -> str:
    """The text that a failed row or query keeps as its error."""
    if isinstance(error, InputError | ModelError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def describe_in_public(error: BaseException) -> str:
    """The same for everybody who may ask in this database."""
    public: str | None = getattr(error, "public", None)
    return public or describe(error)
