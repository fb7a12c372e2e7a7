"""The classes that a network segments by name: ids, names, groups and sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gstk.core.fields import Fields
from gstk.errors import PromptError

__all__ = ["ClassTable"]

_FIELDS = ("names", "groups", "sets", "untrained", "special", "last_supported")


@dataclass(frozen=True)
class ClassTable:
    """Classes of a network.

    Attributes:
        names: class id → name, lower case; groups have names too.
        groups: id of a group → the classes that it stands for.
        sets: name → classes, such as "everything".
        untrained: ids that have an embedding but were never trained.
        special: ids whose points carry the labels 2 and 3 in place of 0 and 1.
        last_supported: largest id of a class that the network was trained on; points of others get the zero-shot token.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    groups: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    sets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    untrained: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    last_supported: int = 132

    def expand(self, prompts: Iterable[str | int]) -> tuple[int, ...]:
        """Class ids of names, ids, groups and sets, each once, in the order they are given.

        Raises:
            PromptError: a class is unknown or was not trained; near names are listed. Or there are no classes.
        """
        if not self.names:
            raise PromptError("got a class prompt for weights without classes; give a point or a box")
        ids: dict[int, None] = {}
        for prompt in prompts:
            ids.update(dict.fromkeys(self._one(prompt)))
        if not ids:
            raise PromptError("got no class, expected a name, an id, a group or a set of classes")
        return tuple(ids)

    def name_of(self, class_id: int) -> str:
        """The name of a class; one without a name goes by its id."""
        return self.names.get(class_id, f"class {class_id}")

    def _one(self, prompt: str | int) -> tuple[int, ...]:
        text = str(prompt).strip().lower()
        if text in self.sets:
            return self.sets[text]
        by_name = {name.lower(): key for key, name in self.names.items()}
        class_id = int(text) if text.isdecimal() else by_name.get(text)
        if class_id is not None and class_id in self.groups:
            return self.groups[class_id]
        if class_id in self.untrained:
            raise PromptError(f"got the class {prompt!r}, which has no trained weights; choose another")
        if class_id is None or class_id not in self.names:
            known = [*self.sets, *by_name]
            near = difflib.get_close_matches(text, known, n=4, cutoff=0.5)
            near += [name for name in known if text in name and name not in near][:4]
            hint = f"near names: {', '.join(near)}" if near else "`gstk inspect --classes` lists them"
            raise PromptError(f"got the class {prompt!r}, expected one of {len(self.names)} names; {hint}")
        return (class_id,)

    def to_json(self) -> dict[str, object]:
        """The table as JSON-ready values."""
        return {
            "names": {str(key): name for key, name in self.names.items()},
            "groups": {str(key): list(ids) for key, ids in self.groups.items()},
            "sets": {name: list(ids) for name, ids in self.sets.items()},
            "untrained": list(self.untrained),
            "special": list(self.special),
            "last_supported": self.last_supported,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> ClassTable:
        """The table from parsed JSON or TOML.

        Raises:
            GstkError: of the fields' source: a field is unknown, missing or wrong.
        """
        fields.only(*_FIELDS)
        named, grouped, sets = fields.sub("names"), fields.sub("groups"), fields.sub("sets")
        names = {key: named.text(text) for key, text in fields.ids("names").items()}
        if len({name.lower() for name in names.values()}) < len(names):
            raise fields.wrong("names", "a different name for each class")
        table = cls(
            names,
            {key: grouped.integers(text, minimum=1) for key, text in fields.ids("groups").items()},
            {name.lower(): sets.integers(name, minimum=1) for name in sets.values},
            fields.integers("untrained", minimum=1),
            fields.integers("special", minimum=0),
            fields.integer("last_supported", minimum=0),
        )
        for kind, lists in (("groups", table.groups), ("sets", table.sets)):
            members = {class_id for ids in lists.values() for class_id in ids}
            if not all(lists.values()) or members - set(names) or members & {*table.untrained, *table.groups}:
                raise fields.wrong(kind, "lists of trained classes that `names` has, none of them a group")
        return table
