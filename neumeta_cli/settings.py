"""What every section of a recipe is; the sections themselves lie with the stages they set."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen mapping of fields, each with a default or a check, that refuses unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
