"""What every section of settings is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings that are checked when they are read, and do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
