"""A YAML file as a checked pydantic model; what is wrong with it is said by the key."""

from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class FileError(ValueError):
    """A YAML file that cannot be what it should be: a line for each key that is wrong."""


def read_checked(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`. Raises FileError, a line for each key that is wrong; never runs code."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise FileError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise FileError(f"{path}: must be a list of `key: value`; known keys: {', '.join(model.model_fields)}")
    try:
        return model(**{str(k): v for k, v in content.items()})
    except ValidationError as error:
        raise FileError("\n".join(_sentence(path, model, problem) for problem in error.errors())) from error


def _sentence(path: Path, model: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    section = model
    for part in problem["loc"][:-1]:
        if part in section.model_fields:
            kind = section.model_fields[str(part)].annotation
            inner = [a for a in (kind, *get_args(kind)) if isinstance(a, type) and issubclass(a, BaseModel)]
            section = inner[0] if inner else section
    known = f"known keys: {', '.join(section.model_fields)}"
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key `{where}`; {known}"
    if problem["type"] == "missing":
        return f"{path}: key `{where}` is missing; {known}"
    return f"{path}: `{where or 'file'}`: {problem['msg'].removeprefix('Value error, ')}"
