"""Pages of short lists, by the id that the last one ended with."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1_000, description="At most so many.")] = 50
    next_token: Annotated[str, Field(max_length=100, description="From the page before; none for the first.")] = ""
