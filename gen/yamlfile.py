"""Reading of a YAML file into a checked pydantic model; errors name the wrong keys."""

import re
from collections.abc import Hashable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
#: Longest whole number that is read: Python's own limit is far above what a setting can be.
MOST_DIGITS = 300


class FileError(ValueError):
    """A YAML file with wrong content: the message has a line for each wrong key."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with the numbers and truths of YAML 1.2, which refuses a key that comes twice.

    By YAML 1.1, which the safe loader knows, `1:30` is 90, `042` is 34, `yes` is a truth (and so 1), `1e3` a text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. Raises YAMLError where one of its keys comes twice."""
        places: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`, which is no key
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, Hashable):
                line = key_node.start_mark.line + 1
                if key in places:
                    raise yaml.YAMLError(f"key `{key}` is there twice, in lines {places[key]} and {line}")
                places[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number, which is decimal whatever zeros it begins with."""
        if len(node.value) > MOST_DIGITS:
            raise yaml.YAMLError(f"a number of {len(node.value)} digits in line {node.start_mark.line + 1}")
        return int(node.value, 0 if "x" in node.value or "o" in node.value else 10)


#: What is a number or a truth, and the characters that it may begin with (https://yaml.org/spec/1.2.2, section 10.3.2).
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in (*_PLAIN, "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), list(_first))  # type: ignore[no-untyped-call]
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_text(text: str) -> Any:
    """Return what a text in YAML says, without running any code in it. Raises YAMLError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("brackets or blanks nested hundreds deep") from error
    except (ValueError, LookupError, AttributeError) as error:  # as of `!!int many` and `!!bool perhaps`
        raise yaml.YAMLError(f"a value that is not what its tag (!!) says: {error}") from error


#: Keys that files of one kind alone have, and what these describe, for which command.
_KINDS = {
    "half_light_radius_arcsec": "an observed galaxy, for `kinmass predict`",
    "snapshots": "a suite of simulated galaxies, for `kinmass check` and `kinmass maps`",
}


def read_checked(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`, without running any code in it. Raises FileError, a line for each wrong key."""
    try:
        content = read_text(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise FileError(f"{path}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error}); is it a text file that you may read?") from error
    except yaml.YAMLError as error:
        raise FileError(f"{path}: not valid YAML ({_problem(error)}); mend it there") from error
    if not isinstance(content, dict):
        raise FileError(
            f"{path}: must be lines of `key: value`, without dashes; known keys: {', '.join(model.model_fields)}"
        )
    try:
        # A key without a value, as of a section in which every line is commented out, is as good as none.
        read = model(**{str(key): value for key, value in content.items() if value is not None})
    except ValidationError as error:
        if kinds := [kind for key, kind in _KINDS.items() if key in content and key not in model.model_fields]:
            raise FileError(f"{path}: describes {kinds[0]}; give it to that command") from error
        raise FileError("\n".join(_sentence(path, model, problem) for problem in error.errors())) from error
    if truths := list(_truths_as_numbers(content, read)):
        raise FileError("\n".join(f"{path}: `{key}`: must be a number, not {value}" for key, value in truths))
    return read


def _truths_as_numbers(content: Any, read: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key of each `true` and `false` of a file that pydantic has taken for 1 and 0, and the word itself."""
    if isinstance(content, dict):
        for name, value in content.items():
            inner = read.get(name) if isinstance(read, dict) else getattr(read, str(name), None)
            yield from _truths_as_numbers(value, inner, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list) and isinstance(read, list | tuple):
        for value, inner in zip(content, read, strict=False):
            yield from _truths_as_numbers(value, inner, key)
    elif isinstance(content, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        yield key, str(content).lower()


def _problem(error: yaml.YAMLError) -> str:
    """Say in one line what is wrong with a YAML file, and where."""
    mark = getattr(error, "problem_mark", None)
    return " ".join(str(error).split()) if mark is None else f"{error.problem} in line {mark.line + 1}"  # type: ignore[attr-defined]


def _sentence(path: Path, model: type[BaseModel], problem: Any) -> str:
    """One of pydantic's errors as a sentence that names the file, the key and, for an unknown one, those that exist."""
    key = ".".join(str(part) for part in problem["loc"])
    section = model
    for part in problem["loc"][:-1]:
        section = _sections(section).get(str(part), section)
    known_keys = f"known keys: {', '.join(section.model_fields)}"
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        if others := [f"`{other}`" for other, keys in _sections(model).items() if name in keys.model_fields]:
            return f"{path}: key `{key}` belongs below {' or '.join(others)}, indented as the keys there"
        if name in model.model_fields:
            return f"{path}: key `{key}` belongs outside of `{key.removesuffix(f'.{name}')}`, without blanks before it"
        close = get_close_matches(name, list(section.model_fields), n=1)
        hint = f", did you mean `{close[0]}`?" if close else ";"
        if close and _stem(key) == _stem(close[0]):
            hint += f" It is in {close[0].rpartition('_')[2]}: convert the value."
        return f"{path}: unknown key `{key}`{hint} {known_keys}"
    if problem["type"] == "missing":
        return f"{path}: key `{key}` is missing; add it"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "float_parsing":
        reason = f"must be a number alone, without a unit, not {problem['input']!r}"
    if problem["type"] in ("float_type", "int_type") and isinstance(problem["input"], list):
        reason = f"must be one number, and no list or range, not {problem['input']}"
    if problem["type"] == "string_pattern_mismatch":  # names of folders and of groups of a store
        reason = f"must be of letters without accents, digits, _ and - alone, not {problem['input']!r}"
    return f"{path}: `{key}`: {reason}" if key else f"{path}: {reason}"


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the models of a model's keys that have keys of their own."""
    annotations = {name: (field.annotation, *get_args(field.annotation)) for name, field in model.model_fields.items()}
    return {
        name: a
        for name, of_key in annotations.items()
        for a in reversed(of_key)
        if isinstance(a, type) and issubclass(a, BaseModel)
    }


def _stem(key: str) -> str:
    """Return a key without its section and its unit, which is what stands after the last underscore."""
    return key.rpartition(".")[2].rpartition("_")[0]
