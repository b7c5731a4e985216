"""Asks the process of this container whether it is well: the health check of the images.

Used as `healthcheck.py VARIABLE PORT PATH`: the environment variable that may name the port, the port if it does not,
and the path that answers 200. The exit code is 0 if so and 1 if not, as Docker has it.
"""

import http.client
import os
import sys

TIMEOUT_S = 5.0


def is_well(port: int, path: str) -> bool:
    """Whether the process answers 200 at `path` of this container's own address."""
    connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    variable, default, path = sys.argv[1:]
    sys.exit(0 if is_well(int(os.environ.get(variable) or default), path) else 1)
