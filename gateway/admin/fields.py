"""What fields and parameters of the admin API may hold: bounds that every database can keep."""

from typing import Annotated

import msgspec

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL's texts cannot hold a NUL."""

Text = Annotated[str, msgspec.Meta(max_length=1000, pattern=NO_NUL)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
DecisionId = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
