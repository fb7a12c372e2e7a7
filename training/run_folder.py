"""A run's folder: the recipe and the cases that it records, so that the run can be resumed.

No torch here: a run is found, and mistakes in it, before that is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gstk.core.files import atomic_path, make_folder
from gstk.core.profile import InputProfile
from gstk.errors import TrainingError
from gstk.training.recipe import Recipe, flat_values, recipe_from_dict
from gstk.training.run_profile import profile_from_json

__all__ = ["RunCases", "RunFolder"]

RECIPE, CASES, PROFILE, INIT = "recipe.json", "cases.json", "profile.json", "init.pt"
HASHED_BYTES = 2 * 2**30
"""Files of more than this together are known by their size alone: hashing them would hold up the run."""
MOST_NAMED = 1000
"""A model's record names up to so many cases."""
_FIXED = (
    "seed",
    "network.",
    "data.source",
    "data.patches_per_case",
)
"""Fields that a run cannot go on with otherwise: its checkpoints would not fit, or its data begin anew."""
_SWITCHES = ("loop.convolution_rate", "loop.ema_decay", "loop.object_weight")
"""Fields whose 0 turns something off that a checkpoint holds: they may change, but not from 0 or to it."""
_UNSAID = ("name",)
_AGAIN = "give the folder of the cases again"


@dataclass(frozen=True)
class RunCases:
    """What a run trains on and is scored on.

    Attributes:
        train, validation: files.
        stages: which of the two it does.
        init: the weights that the first of them begins with; None is fresh ones, or those of stage 1.
    """

    train: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    stages: tuple[int, ...] = (1, 2)
    init: Path | None = None


class RunFolder:
    """The folder of a run."""

    def __init__(self, path: Path) -> None:
        """Takes the folder; it need not be there."""
        self.path = path

    @property
    def init(self) -> Path:
        """The weights that it began with, where they are no file of their own."""
        return self.path / INIT

    def stage(self, number: int) -> Path:
        """The folder of a stage."""
        return self.path / f"stage{number}"

    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
            TrainingError: there is no run, or its recipe cannot be read.
        """
        values = self._read(RECIPE)
        try:
            return recipe_from_dict(values)
        except TrainingError as error:
            raise TrainingError(f"{self.path / RECIPE} is no recipe ({error}); use another folder") from None

    def profile(self) -> InputProfile | None:
        """The input profile of the run; None where it has none, or there is no run.

        Raises:
            TrainingError: it cannot be read.
        """
        path = self.path / PROFILE
        return profile_from_json(self._read(PROFILE), path) if path.is_file() else None

    def cases(self) -> RunCases:
        """What the run trains on.

        Raises:
            TrainingError: there is no run, its list cannot be read, or a file is not there any more.
        """
        values = self._read(CASES)
        try:
            train, validation = ([Path(entry["file"]) for entry in values[key]] for key in ("train", "validation"))
            stages = tuple(int(stage) for stage in values["stages"])
        except (KeyError, TypeError, ValueError):
            raise TrainingError(
                f"{self.path / CASES} is no list of cases; give the folder of the cases again"
            ) from None
        gone = [path for path in (*train, *validation) if not path.is_file()]
        if gone:
            raise TrainingError(f"got {gone[0]}, which is not there any more; {_AGAIN}")
        return RunCases(tuple(train), tuple(validation), stages)

    def began_with(self, stages: Sequence[int]) -> Path | None:
        """The weights that a run of these stages began with; None where it began with none.

        Raises:
            TrainingError: they are not there any more, and no checkpoint has taken their place.
        """
        if not (self.path / CASES).is_file():
            return None
        known = self._read(CASES)
        if known.get("init") is None or min(stages) not in known.get("stages", ())[:1]:
            return None
        init = Path(str(known["init"]))
        begun = any(self.stage(min(stages)).glob("checkpoints/step-*.pt"))
        if not init.is_file():
            if begun:
                return None
            raise TrainingError(f"got {init} to begin with, which is not there any more; give it with --init")
        return init

    def check(self, recipe: Recipe, cases: RunCases, resume: bool, profile: InputProfile | None = None) -> list[str]:
        """Whether a run may begin here, or go on.

        Returns:
            What is not as it was when the run began, a sentence each.

        Raises:
            TrainingError: it holds a run, and none is to go on; or what cannot be changed was.
        """
        if not resume:
            there = [self.stage(s) for s in cases.stages if self.stage(s).exists()]
            if there:
                raise TrainingError(
                    f"got {there[0]}, which holds a run; use --resume to continue it, or another folder"
                )
            return []
        if not (self.path / RECIPE).is_file():
            return []
        before = self.profile()
        if before != profile:
            names = ["none" if p is None else p.name for p in (profile, before)]
            raise TrainingError(
                f"got the profile {names[0]} for the run in {self.path}, which began with {names[1]}; leave --profile "
                "out to continue, or use another folder"
            )
        old, new = flat_values(self.recipe()), flat_values(recipe)
        changed = [key for key in new if new[key] != old.get(key) and key not in _UNSAID]
        fixed = [key for key in changed if key.startswith(_FIXED)]
        fixed += [key for key in changed if key in _SWITCHES and not (new[key] and old.get(key))]
        if fixed:
            raise TrainingError(
                f"got a recipe with another {', '.join(fixed)} than the run in {self.path}; continue with the same, or "
                "use another folder and --init"
            )
        found = [f"{key} is {new[key]}, it was {old.get(key)}" for key in changed]
        if (self.path / CASES).is_file():
            known = self._read(CASES)
            for key, files in (("train", cases.train), ("validation", cases.validation)):
                if _identities(files) != known.get(key):
                    found.append(f"the cases of {key} are not those that the run began with")
        return found

    def write(self, recipe: Recipe, cases: RunCases, profile: InputProfile | None = None) -> None:
        """Writes the recipe, the list of cases, with hashes, and the profile where there is one."""
        make_folder(self.path)
        lists: dict[str, Any] = {
            "stages": list(cases.stages),
            "init": None if cases.init is None else str(cases.init.resolve()),
            "train": _identities(cases.train),
            "validation": _identities(cases.validation),
        }
        files = [(RECIPE, recipe.to_dict()), (CASES, lists)]
        for name, values in files if profile is None else [*files, (PROFILE, profile.to_json())]:
            with atomic_path(self.path / name) as partial:
                partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def record(self) -> dict[str, Any]:
        """For a model's record: the names of the cases that it is trained and scored on, and their hashes."""
        known = self._read(CASES)
        return {
            key: [{"name": Path(entry["file"]).name, "sha256": entry.get("sha256", "")} for entry in known[key]]
            for key in ("train", "validation")
            if 0 < len(known[key]) <= MOST_NAMED
        }

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrainingError(f"got --resume, but {self.path} holds no run: there is no {name}") from None
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); use another folder") from None
        if not isinstance(values, dict):
            raise TrainingError(f"{path} is none of a run; use another folder")
        return values


def _identities(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Each file's path, size and, where all of them are few bytes, SHA-256."""
    sizes = [path.stat().st_size for path in files]
    hashed = sum(sizes) <= HASHED_BYTES
    return [
        {"file": str(path.resolve()), "bytes": size}
        | ({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} if hashed else {})
        for path, size in zip(files, sizes, strict=True)
    ]
