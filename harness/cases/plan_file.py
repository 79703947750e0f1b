"""A file of runs in YAML, such as the nightly's: which cases, how often, with which settings and faults."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.model.errors import UsageError


class Entry(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    case: str
    repeat: int = Field(default=1, ge=1)
    settings: Mapping[str, Any] = Field(default_factory=dict, alias="set")
    backend: str | None = None
    arch: str | None = None
    faults: tuple[str, ...] = ()


class PlanFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: tuple[Entry, ...] = Field(min_length=1)


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            mark = node.start_mark
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} is given twice", mark)
        return super().construct_mapping(node, deep)


def load_plan(path: Path) -> PlanFile:
    """Read *path*.

    Raises UsageError with the line, or with every fault at once, when it is no plan.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
        return PlanFile.model_validate(data)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a YAML file with --file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}", hint="see ci/nightly.yaml") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
        raise UsageError(f"{path} is no plan: {faults}", hint="see ci/nightly.yaml") from None
