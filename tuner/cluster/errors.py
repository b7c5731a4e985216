"""What goes wrong between a dispatcher and the cluster's API server.

ClusterError
  ClusterAway         it does not answer, or says to come later
  ClusterRefused      it answers, and does not do what it was asked
    Expired           what a watch wanted to go on from is too long ago; list again
"""


class ClusterError(Exception):
    """The API server did not do what it was asked. The message is for operators and clients alike."""


class ClusterAway(ClusterError):
    """It does not answer, or says to come later."""


class ClusterRefused(ClusterError):
    """It does not do that.

    Attributes:
        status: the HTTP status, such as 403.
        said: its own words, for operators.
    """

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status = status
        self.said = said


class Expired(ClusterRefused):
    """The version of the list to go on from is gone."""
