"""What a module's own code calls: each function of its framework, with settings and tensors; and one changed.

Calls within a module below it are one call of that module. The frameworks' part, catching the calls, is in
`trace_torch.py` and `trace_paddle.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stdc_parity.align.framework import Array, Framework, Tensor

Arguments = dict[str, Any]
Settings = Mapping[str, Any]
Bind = Callable[[str, Any, Any, Any], tuple[Arguments, Arguments]]
"""`bind(name, function, args, kwargs)`: the arguments of a call by name, and the defaults of its signature."""

NOTHING = np.zeros(0)
"""What stands for a value that nobody will look at: those of a run with changes."""

EFFECTS = ("register_hook",)
"""Functions that are called for what they do to a tensor, not for a result."""

WHOLE = -1
"""The number of the call of the module itself."""

MODE = "mode"
"""The attribute of a network that an evaluation runs: "train" or "eval"."""


@dataclass(frozen=True)
class Call:
    """One call: `name` of a function, or the dotted path of a module below if `module`.

    `settings` are the arguments that are no tensors, `defaults` what the function's signature has for them.
    `inputs` are (argument, value), `outputs` values: numbers of tensors, in the order in which they were met;
    negative ones are parameters, of which `Trace.parameters` has the names.
    """

    name: str
    module: bool
    settings: Settings
    inputs: Sequence[tuple[str, int]]
    outputs: Sequence[int]
    defaults: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """The calls of one run of a module, the values they were about, and the module's own settings.

    `inputs` and `outputs` are what it was given and what it returned, by number. `focus` are the numbers of the
    calls to look at, None for all.
    """

    calls: Sequence[Call]
    values: Mapping[int, Array]
    parameters: Mapping[int, str]
    inputs: Sequence[int] = ()
    outputs: Sequence[int] = ()
    type: str = ""
    attributes: Settings = field(default_factory=dict)
    focus: Sequence[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the values."""
        return {
            "calls": [asdict(call) for call in self.calls],
            "parameters": {str(number): name for number, name in self.parameters.items()},
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "type": self.type,
            "attributes": dict(self.attributes),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any], values: Mapping[int, Array]) -> Trace:
        """The trace that `to_json` wrote."""
        return Trace(
            calls=[_call(call) for call in data["calls"]],
            values=values,
            parameters={int(number): name for number, name in data["parameters"].items()},
            inputs=tuple(data["inputs"]),
            outputs=tuple(data["outputs"]),
            type=data["type"],
            attributes={key: _tuples(value) for key, value in data["attributes"].items()},
        )


def _call(data: Mapping[str, Any]) -> Call:
    inputs = tuple((argument, value) for argument, value in data["inputs"])
    settings, defaults = ({key: _tuples(v) for key, v in data[part].items()} for part in ("settings", "defaults"))
    return Call(data["name"], data["module"], settings, inputs, tuple(data["outputs"]), defaults)


@dataclass(frozen=True)
class Edit:
    """One change of a module: at the call number `call` (counted in the unchanged run), or of the module itself.

    `do` is "set" (other `settings`), "skip" (hand the first tensor on), "replace" (call `name` with the same
    tensor and `settings`), "before" and "after" (call `name` on the first tensor, or on the result), "inputs"
    (the tensors `values`, by their numbers, in place of its own), "value" (the reference's `values` for the
    result). With `call` WHOLE: "before" (on input number `values`), "after", "outputs" (return the tensors
    `values`), "program" (do what `program`, the reference's calls, does: `values` are its inputs and outputs),
    "attribute" (set `settings` of the module), "gradient" (let the parameter `name` have one).
    """

    call: int
    do: str
    name: str = ""
    settings: Settings = field(default_factory=dict)
    values: Sequence[int] = ()
    program: Sequence[Call] = ()

    def to_json(self) -> dict[str, Any]:
        """The edit as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Edit:
        """The edit that `to_json` wrote."""
        return Edit(**{**data, "program": [_call(call) for call in data["program"]]})


class Tracer:
    """Records what happens within calls of `root` (or always, without one), and changes what `edits` name."""

    def __init__(
        self,
        framework: Framework,
        root: Any | None,
        edits: Sequence[Edit] = (),
        arrays: Mapping[int, Array] | None = None,
        *,
        network: Any = None,
    ) -> None:
        """Watch what `root` calls; `arrays` are the reference's values, by number.

        Without a `root` all calls are seen; those of `network` among them, as calls of a module of that name.
        """
        self.calls: list[Call] = []
        self.values: dict[int, Array] = {}
        self.parameters: dict[int, str] = {}
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._framework, self._root, self._arrays = framework, root, arrays or {}
        self._inside = 0 if root is None else 1
        self._edits: dict[int, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.call, []).append(edit)
        self._modules = dict(framework.modules(root)) if root is not None else {}
        self._paths = {id(module): path for path, module in self._modules.items() if path}
        if network is not None:
            self._paths[id(network)], self._modules["network"] = "network", network
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []
        for name, tensor in framework.tensors(root).items() if root is not None else ():
            self._numbers[id(tensor)] = number = -1 - len(self.parameters)
            self.parameters[number] = name
            self._kept.append(tensor)

    def whole(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Run the module itself, and record what it calls, takes and returns."""
        edits = self._edits.get(WHOLE, [])
        arguments = list(args)
        self.inputs = [self._number(tensor) for tensor in self._tensors(arguments)]
        for edit in edits:
            if edit.do == "before":
                tensors = [i for i, value in enumerate(arguments) if self._framework.is_tensor(value)]
                at = tensors[edit.values[0] if edit.values else 0]
                arguments[at] = self._apply(edit.name, arguments[at], edit.settings)
        self._inside = 0
        try:
            result = function(*arguments)
        finally:
            self._inside = 1
        self.outputs = [self._number(tensor) for tensor in self._tensors(result)]
        for edit in edits:
            if edit.do == "after":
                result = self._apply(edit.name, result, edit.settings)
            elif edit.do == "outputs":
                result = self._given(result, edit.values)
            elif edit.do == "program":
                result = self._follow(edit, result)
        return result

    def function(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, bind: Bind) -> Any:
        """Run and record one call of a function, if it is not within another one."""
        if self._inside or not name:
            return function(*args, **kwargs)
        self._inside += 1
        try:
            return self._run(name, False, function, args, kwargs, bind)
        finally:
            self._inside -= 1

    def module(self, module: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run and record one call of a module below the root, or of the root."""
        if module is self._root and self._inside == 1 and id(module) not in self._paths:
            return self.whole(lambda *given: function(module, *given, **kwargs), args)
        path = self._paths.get(id(module))
        if self._inside or path is None:
            return function(module, *args, **kwargs)
        self._inside += 1
        try:
            return self._run(path, True, lambda *a, **k: function(module, *a, **k), args, kwargs, _positions)
        finally:
            self._inside -= 1

    def _run(
        self, name: str, module: bool, function: Callable[..., Any], args: Any, kwargs: Any, bind: Bind
    ) -> Any:
        arguments, defaults = bind(name, function, args, kwargs)
        inputs = [(key, self._number(t)) for key, value in arguments.items() for t in self._tensors(value)]
        edits = self._edits.get(len(self.calls), [])
        early = [edit for edit in edits if edit.do not in ("after", "value")]
        result = self._changed(function, arguments, early) if early else function(*args, **kwargs)
        for edit in edits:
            if edit.do == "after":
                result = self._apply(edit.name, result, edit.settings)
            elif edit.do == "value":
                result = self._put(result, edit.values)
        outputs = self._tensors(result)
        if name == "__setitem__":
            outputs = [next(tensor for value in arguments.values() for tensor in self._tensors(value))]
        if outputs or name in EFFECTS:
            settings = {key: plain(value) for key, value in arguments.items() if not self._tensors(value)}
            usual = {key: plain(value) for key, value in defaults.items() if key in settings}
            numbers = [self._number(tensor, new=True) for tensor in outputs]
            self.calls.append(Call(name, module, settings, inputs, numbers, usual))
        return result

    def _changed(self, function: Callable[..., Any], arguments: Arguments, edits: Sequence[Edit]) -> Any:
        """The call with its edits applied, in their order."""
        arguments = dict(arguments)
        for edit in edits:
            first = next((key for key, value in arguments.items() if self._framework.is_tensor(value)), "")
            if edit.do == "set":
                arguments.update(edit.settings)
            elif edit.do == "before":
                arguments[first] = self._apply(edit.name, arguments[first], edit.settings)
            elif edit.do == "inputs":
                values = list(edit.values)
                for key, value in arguments.items():
                    count = len(self._tensors(value))
                    if count:
                        arguments[key] = self._given(value, values[:count])
                        del values[:count]
            elif edit.do == "skip":
                return next(tensor for value in arguments.values() for tensor in self._tensors(value))
            elif edit.do == "replace":
                return self._apply(edit.name, arguments[first], edit.settings)
        if "item" in arguments:
            arguments["item"] = _item(arguments["item"])
        positions = [value for key, value in arguments.items() if key.isdigit()]
        if "operands" in arguments:
            positions += [arguments.pop("equation"), *arguments.pop("operands")]
        return function(*positions, **{k: v for k, v in arguments.items() if not k.isdigit()})

    def _apply(self, name: str, tensor: Any, settings: Settings) -> Any:
        """A function of the framework, or a module below the root ("module:" and its path), on one tensor."""
        if name.startswith("module:"):
            return self._modules[name.removeprefix("module:")](tensor)
        function = self._framework.function(name)
        return function(tensor, _item(settings["item"])) if "item" in settings else function(tensor, **settings)

    def _follow(self, edit: Edit, result: Any) -> Any:
        """What the reference's calls give with our functions, modules and parameters. Raises what those raise."""
        ours = self._known()
        known: dict[int, Any] = dict(
            zip(edit.values, [ours[number] for number in self.inputs], strict=False)
        )
        for call in edit.program:
            tensors = [known[number] if number in known else ours[number] for _, number in call.inputs]
            if call.module:
                given = self._modules[call.name](*tensors)
            else:
                named: dict[str, list[Any]] = {}
                for (key, _), tensor in zip(call.inputs, tensors, strict=True):
                    named.setdefault(key, []).append(tensor)
                first, *rest = [found if len(found) > 1 else found[0] for found in named.values()]
                others = dict(zip(list(named)[1:], rest, strict=True))
                given = self._called(call, first, others)
            known.update(zip(call.outputs, self._tensors(given), strict=True))
        outputs = [known[number] for number in edit.values[len(self.inputs) :]]
        return type(result)(outputs) if isinstance(result, list | tuple) else outputs[0]

    def _called(self, call: Call, first: Any, others: Arguments) -> Any:
        """A call of the reference's with our function of that name."""
        function = self._framework.function(call.name)
        if "item" in call.settings:
            return function(first, _item(call.settings["item"]))
        if "equation" in call.settings:
            return function(call.settings["equation"], *(first if isinstance(first, list) else [first]))
        return function(first, **others, **call.settings)

    def _put(self, result: Any, values: Sequence[int]) -> Any:
        """`result` with the reference's tensors for its own."""
        arrays = [self._framework.to_tensor(self._arrays[number]) for number in values]
        if isinstance(result, list | tuple):
            return type(result)(arrays)
        return arrays[0].reshape(list(result.shape)) if arrays[0].shape != result.shape else arrays[0]

    def _given(self, value: Any, numbers: Sequence[int]) -> Any:
        """`value` with the tensors of those numbers for its own, in order."""
        known = self._known()
        left = [known[number] for number in numbers]

        def put(item: Any) -> Any:
            if self._framework.is_tensor(item):
                return left.pop(0)
            return type(item)([put(each) for each in item]) if isinstance(item, list | tuple) else item

        return put(value)

    def _known(self) -> dict[int, Any]:
        """The tensors that were met, by number."""
        return {self._numbers[id(tensor)]: tensor for tensor in self._kept if id(tensor) in self._numbers}

    def _number(self, tensor: Tensor, *, new: bool = False) -> int:
        """The number of a tensor; an output is a new value even if its tensor was known."""
        if id(tensor) in self._numbers and (self._numbers[id(tensor)] < 0 or not new):
            return self._numbers[id(tensor)]
        number = len(self.values)
        self._numbers[id(tensor)] = number
        self._kept.append(tensor)
        self.values[number] = NOTHING if self._edits else self._framework.to_array(tensor)
        return number

    def _tensors(self, value: Any) -> list[Any]:
        """The tensors in an argument or a result."""
        if self._framework.is_tensor(value):
            return [value]
        if isinstance(value, list | tuple):
            return [tensor for item in value for tensor in self._tensors(item)]
        return []


def plain(value: Any) -> Any:
    """A setting as JSON can have it: numbers, texts, lists; everything else in words."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, slice):
        ends = ["" if end is None else str(plain(end)) for end in (value.start, value.stop, value.step)]
        return ":".join(ends if ends[2] else ends[:2])
    if value is Ellipsis:
        return "..."
    return str(value).removeprefix("torch.").removeprefix("paddle.")


def _item(value: Any) -> Any:
    """An index as `plain` gave it, or as it was: slices are texts such as "1::2" there."""
    if isinstance(value, list | tuple):
        return tuple(_item(each) for each in value)
    if isinstance(value, str) and value == "...":
        return Ellipsis
    if isinstance(value, str) and re.fullmatch(r"-?\d*(:-?\d*){1,2}", value):
        return slice(*[int(end) if end else None for end in value.split(":")])
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _positions(name: str, function: Any, args: Any, kwargs: Any) -> tuple[Arguments, Arguments]:
    return {str(i): value for i, value in enumerate(args)} | kwargs, {}
