"""What every section of a recipe is; the sections themselves lie with the stages they set."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen mapping of fields, each with a default or a check, that refuses unknown ones."""

    # Built when a recipe is read, not when its module is imported.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
