"""Make a parser from a verb's typed function: every parameter is an option, from the signature and the docstring.

    def measure(what: Literal["decode", "data"], *, size: Count = 224, address: Address = None) -> dict[str, Any]:
        '''Measure decoding or the stream.

        Examples:
            stm measure decode --size 112

        Args:
            what: what to measure
            size: side of a clip, px
        '''

Parameters before the ``*`` are positional arguments, and those after it are options; ``*words`` are the arguments after
a ``--``. A dataclass adds its fields, and `Config` also adds ``--config``. jsonargparse checks types and writes the
help. Its own `add_function_arguments` has no positional lists, second names or shared help texts: `Option` has these.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from stm import recipes
from stm.bounds import Bounds, Rule, broken, what_is_wrong
from stm.config import Config
from stm.errors import UserError
from stm.storage import on_this_machine

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True)
class Option:
    """Properties of an option that its type does not give, as in ``Annotated[str, Option(also="model")]``."""

    help: str = ""
    also: str = ""
    """A second name, such as ``data.root``."""
    here: str = ""
    """How the verb uses a path on this machine, which cannot be a URL: "written" or "read"."""
    sets: str = ""
    """The setting that gets this value if it is not null."""


Count = Annotated[int, Bounds(ge=1)]
CountOrNull = Annotated[int | None, Bounds(ge=1)]
Positive = Annotated[float, Bounds(gt=0)]
PositiveOrNull = Annotated[float | None, Bounds(gt=0)]
NotNegative = Annotated[float, Bounds(ge=0)]
Output = Annotated[str, Option(here="written")]
OutputOrNull = Annotated[str | None, Option(here="written")]
File = Annotated[str, Option(here="read")]
FileOrNull = Annotated[str | None, Option(here="read")]
Files = Annotated[list[str], Option(here="read")]
FilesOrNull = Annotated[list[str] | None, Option(here="read")]

Address = Annotated[
    str | None,
    Option(
        help="Ray cluster to use, such as `auto`; null uses $RAY_ADDRESS, or else starts Ray on this machine"
    ),
]
Root = Annotated[
    str | None,
    Option(
        also="data.root",
        help="folder or URL where the manifest's videos are now; a video outside it is refused. Null uses the folder "
        "that they were indexed in",
    ),
]
Checkpoint = Annotated[
    str,
    Option(help="checkpoint, or the folder of a run, whose best checkpoint is used (see --which)"),
]
CheckpointOrNull = Annotated[
    str | None,
    Option(help="checkpoint, or the folder of a run, whose best checkpoint is used (see --which)"),
]
CheckpointOrModel = Annotated[
    str,
    Option(
        also="model",
        help="checkpoint, the folder of a run, whose best checkpoint is used (see --which), or a registered model: "
        "models:/NAME@ALIAS",
    ),
]
Which = Annotated[
    Literal["best", "last"],
    Option(help="which checkpoint of a run to use: the best one by validation, or the last one"),
]
Tracking = Annotated[
    str | None,
    Option(
        help="MLflow server or database of a registered model; null uses $MLFLOW_TRACKING_URI, or else runs/mlflow.db"
    ),
]
Protocol = Annotated[
    Literal["efficient", "accurate"],
    Option(
        help="`efficient`: 1 clip, centre crop; `accurate`: 10 samplings x 3 crops, scores averaged"
    ),
]
Videos = Annotated[
    list[str],
    Option(
        help="video files, folders of images (one video each), rows of shards, or folders that contain these"
    ),
]
Workers = Annotated[
    int | None,
    Bounds(ge=1),
    Option(help="short for --train.num_workers", sets="train.num_workers"),
]
SHARED = {
    "json": "print the result on stdout as one JSON object and nothing else",
    "verbose": "show every line of the log, and the part of stm that it comes from",
    "quiet": "show only warnings and the result",
}
"""Switches that every verb has."""
_PLUGINS = {"plugin", "model.plugin"}
_PLUGIN = (
    "Python file that defines the network's blocks, if they are your own (docs/blocks.md); code in a checkpoint runs "
    "only if you name its file here"
)


_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_MANY = {int: "whole numbers, as [1, 2]", float: "numbers, as [0.5, 0.75]", str: "words, as a b"}


def described(hint: Any) -> str:
    """Describe a type in words, such as "a whole number or null"."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(described, arguments))
    if get_origin(hint) is Literal:
        named = ", ".join(map(str, arguments))
        return f"one of {named}" if len(arguments) > 1 else named
    if get_origin(hint) is list:
        if is_dataclass(arguments[0]):
            return (
                f"a list of {described(arguments[0])}, as [{{{fields(arguments[0])[0].name}: ...}}]"
            )
        return f"a list of {_MANY.get(arguments[0]) or described(arguments[0])}"
    if get_origin(hint) is dict:
        values = "numbers" if arguments[1] is float else "values"
        return f"a mapping of names to {values}, as '{{name: 1}}' with a blank after the colon"
    if is_dataclass(hint):
        return "settings " + ", ".join(each.name for each in fields(hint))
    return _PLAIN.get(hint, "a YAML file of settings")


_PRINT_CONFIG = (
    "Print the configuration with all other options applied, and exit. Flags change what is printed; separate several "
    "with commas: skip_default, skip_unset."
)


class _Help(jsonargparse.DefaultHelpFormatter):
    """A formatter that keeps the line breaks of the examples, and names choices as stm's messages do."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _get_help_string(self, action: argparse.Action) -> str:
        if "--print_config" in action.option_strings:
            return _PRINT_CONFIG
        return super()._get_help_string(action)

    def _get_type_str(self, action: argparse.Action) -> str | None:
        shown = super()._get_type_str(action)
        hint = getattr(action, "_typehint", None)
        of_python = any(word in (shown or "") for word in ("Literal[", "Optional["))
        return described(hint) if of_python and hint is not None else shown


class Options:
    """The options of a verb. Names are the dotted ones, without the leading ``--``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        doc = docstring_parser.parse(
            inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE
        )
        self.parser = jsonargparse.ArgumentParser(
            prog=f"stm {function.__name__}",
            usage=_usage(function),
            description="\n\n".join(filter(None, (doc.short_description, doc.long_description))),
            epilog="examples:\n" + "\n".join(_indented(doc.examples)),
            formatter_class=_Help,
            exit_on_error=False,
        )
        self.types: dict[str, Any] = dict.fromkeys(SHARED, bool)
        """The type of each option and word."""
        self.rules: dict[str, Option] = {}
        self.bounded: dict[str, Any] = {}
        """The verb's own options that have `Bounds` or a `Rule`, with their annotated types."""
        self.required: set[str] = set()
        self.words: list[str] = []
        """Positional arguments, in order; the last may be a list."""
        self.rest = ""
        """The parameter for the arguments after a ``--``."""
        self.made: dict[str, type] = {}
        """Parameters that are dataclasses."""
        help_of = {each.arg_name: " ".join((each.description or "").split()) for each in doc.params}
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        self.has_files = Config in [each.annotation for each in parameters]
        """Whether ``--config`` is a file of these options."""
        if self.has_files:
            self.parser.add_argument(
                "--config",
                action="config",
                help="YAML file with some of the settings below, or the name of a recipe: "
                + ", ".join(recipes.names()),
            )
        for each in parameters:
            self._add(each, help_of.get(each.name, ""))
        self.takes_plugin = "checkpoint" in self.types
        """Whether ``--plugin`` may define the checkpoint's blocks."""
        if self.takes_plugin:
            self.types["plugin"] = str | None
            self.parser.add_argument("--plugin", type=str | None, default=None, help=_PLUGIN)
        for name, said in SHARED.items():
            self.parser.add_argument(f"--{name}", type=bool, default=False, metavar="", help=said)

    @classmethod
    def of(cls, module: ModuleType) -> Options:
        """Return the options of a verb's file, from its function with the same name."""
        return cls(getattr(module, module.__name__.rpartition(".")[2]))

    def _add(self, parameter: inspect.Parameter, said: str) -> None:
        name, (hint, option) = parameter.name.rstrip("_"), _unpacked(parameter.annotation)
        if parameter.kind is parameter.VAR_POSITIONAL:
            self.rest = name
            return
        if name in SHARED:
            return
        if is_dataclass(hint):
            self.parser.add_class_arguments(hint)
            self.made[parameter.name] = hint  # type: ignore[assignment]
            for key, each in _fields(hint):
                self.types[key], self.rules[key] = each
            return
        self.types[name], self.rules[name] = hint, option
        if any(isinstance(each, Bounds | Rule) for each in get_args(parameter.annotation)):
            self.bounded[name] = parameter.annotation
        more: dict[str, Any] = {"type": hint, "help": said or option.help}
        if required := parameter.default is parameter.empty:
            self.required.add(name)
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            self.words.append(name)
            if is_list(hint):
                more |= {"type": get_args(hint)[0], "nargs": "+" if required else "*"}
            elif not required:
                more |= {"nargs": "?", "default": parameter.default}
            self.parser.add_argument(name, **more)
            return
        more |= {"required": True} if required else {"default": parameter.default}
        if is_list(hint):
            more["metavar"] = f"{name.upper()} [{name.upper()} ...]"
        elif hint is bool and not parameter.default:
            more["metavar"] = ""
        also = [f"--{option.also}"] if option.also else []
        self.parser.add_argument(f"--{name}", *also, **more)

    def keywords(self, parsed: Any, typed: dict[str, str | None]) -> dict[str, Any]:
        """Return the function's arguments by parameter.

        Raises ``UserError`` for a value that is out of range, with its text in ``typed``, the options of the command
        line.
        """
        for name, option in self.rules.items():
            if option.sets and parsed[name] is not None:
                parsed[option.sets] = parsed[name]
        here = {name: option.here for name, option in self.rules.items() if option.here}
        here |= dict.fromkeys(_PLUGINS & self.types.keys(), "read")
        for name, done in here.items():
            paths = parsed[name] or []
            for path in [paths] if isinstance(paths, str) else paths:
                on_this_machine(path, f"--{name}", done)
        for name, hint in self.bounded.items():
            if wrong := what_is_wrong(parsed[name], hint):
                raise UserError(f"--{name} {typed.get(name, parsed[name])}: {wrong}")
        instantiated = self.parser.instantiate(parsed)
        given: dict[str, Any] = {}
        for each in inspect.signature(self.function).parameters.values():
            if made := self.made.get(each.name):
                fields = dataclasses.fields(made)
                made_here = made(**{f.name: instantiated[f.name] for f in fields})
                for name, wrong in broken(made_here):
                    raise UserError(f"--{name} {typed.get(name, parsed[name])}: {wrong}")
                given[each.name] = made_here
            elif each.kind is not each.VAR_POSITIONAL:
                given[each.name] = parsed[each.name.rstrip("_")]
        return given


def _usage(function: Callable[..., Any]) -> str:
    words = ["stm", function.__name__]
    rest = []
    for each in inspect.signature(function, eval_str=True).parameters.values():
        name = each.name.upper()
        if each.kind is each.VAR_POSITIONAL:
            rest = ["--", name, "..."]
        elif each.kind is each.POSITIONAL_OR_KEYWORD and not is_dataclass(each.annotation):
            name += " ..." * is_list(_unpacked(each.annotation)[0])
            words.append(name if each.default is each.empty else f"[{name}]")
    return " ".join([*words, "[--option VALUE ...]", *rest])


def is_list(hint: Any) -> bool:
    """Return whether a type is a list, or a list or null."""
    return any(get_origin(each) is list for each in (hint, *get_args(hint)))


def _unpacked(annotation: Any) -> tuple[Any, Option]:
    """Return the plain type, and the `Option` of the annotation, if any."""
    if get_origin(annotation) is not Annotated:
        return annotation, Option()
    hint, *more = get_args(annotation)
    return hint, next((each for each in more if isinstance(each, Option)), Option())


def _fields(made: Any, prefix: str = "") -> list[tuple[str, tuple[Any, Option]]]:
    """Return the dotted name and the type of every setting of a dataclass, including nested ones."""
    found = []
    for name, annotation in get_type_hints(made, include_extras=True).items():
        if is_dataclass(annotation):
            found += _fields(annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, _unpacked(annotation)))
    return found


def _indented(examples: list[Any]) -> list[str]:
    return [f"  {line}" for each in examples for line in (each.description or "").splitlines()]
