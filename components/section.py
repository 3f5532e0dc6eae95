"""What every section of a recipe is: unknown keys and loose types are mistakes, and nothing changes once it is read."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def settled(self) -> dict[str, Any]:
        """What fingerprints are of: it and its sections, as JSON, without keys that are newer and at their default."""
        tree = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section):
                tree[name] = value.settled()
            elif Newer in field.metadata and value == field.default:
                del tree[name]
        return tree


class Newer:
    """In the Annotated of a key or a part's argument that came later: where it is not used, fingerprints are as they were."""


def matching(pattern: str, what: str) -> AfterValidator:
    """Text that a pattern matches as a whole; `what` says what that is."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(what)
        return value

    return AfterValidator(check)
