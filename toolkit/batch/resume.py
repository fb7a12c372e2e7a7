"""Which cases of a run are finished, and the publishing of a result together with its line in the journal."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gstk._version import __version__
from gstk.batch.case_files import CaseFiles
from gstk.batch.journal import JOURNAL, Entry, Journal
from gstk.batch.results import InferResult, ObjectResult
from gstk.core.files import publish, scratch_folder, sha256_of
from gstk.errors import OutputError

__all__ = ["RunRecord"]

_REMEDY = "give --overwrite to do it again, or another --out folder"
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class RunRecord:
    """A run of `infer` beside those that wrote to the same folder before. It can be pickled, for workers.

    Attributes:
        folder: folder of the results, absolute.
        settings: what the results depend on and all cases share, as JSON values.
        resume: whether the finished results of earlier runs count.
        overwrite: whether other results may be replaced.
        run: name of the run. What it has finished counts always, since a worker may die after it wrote a result.
        journal: of the folder.
    """

    folder: Path
    settings: Mapping[str, Any]
    resume: bool
    overwrite: bool
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "journal", Journal(self.folder))

    def made_of(self, session_settings: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
        """What one result depends on: hashes of its input, the settings, gstk's version.

        Args:
            session_settings: see `gstk.session.session.Session.settings`.
            hashes: SHA-256 of the case, and of other files that it is made of, by name.
        """
        values = {**hashes, "gstk": __version__, **session_settings, **self.settings}
        return dict(json.loads(json.dumps(values)))  # as they are compared with what was read from the journal

    def find(self, task: CaseFiles, made_of: Mapping[str, Any]) -> tuple[InferResult | None, str]:
        """Looks for the result of a case.

        Args:
            task: the files of the case.
            made_of: what its result depends on now.

        Returns:
            The result if it is finished; otherwise None, and why an earlier one is made again, which may be empty.

        Raises:
            OutputError: a file is there that is no part of this result, and may not be replaced; or a file cannot be
                read.
        """
        there = [path for path in (task.mask, task.regular, task.labels, task.overlay) if os.path.lexists(path)]
        if not there:
            return None, ""
        entries = self.journal.entries(self._name(task.mask))
        same = [entry for entry in entries if entry.made_of == made_of]
        for entry in reversed(same):
            if (self.resume or entry.run == self.run) and self._is_whole(entry):
                return self._result(entry, task), ""
        if any(all(self._is_part(path, entry) for path in there) for entry in same):
            return None, ""  # a process that ended while it published
        if not entries:
            why = f"{JOURNAL} does not say what it was made of"
        elif same:
            why = "it has been changed since"
        else:
            why = f"it was made {_difference(entries[-1].made_of, made_of)}"
        if self.overwrite:
            return None, f"done again: {there[0].name} existed, and {why}" if self.resume else ""
        raise OutputError(f"{there[0]} exists already, and {why}; {_REMEDY}")

    def publish(
        self, task: CaseFiles, made_of: Mapping[str, Any], write: Callable[[CaseFiles], InferResult]
    ) -> InferResult:
        """Writes the files of a result, and gives them their names once the journal has their line.

        Args:
            task: the files of the case.
            made_of: what the result depends on.
            write: writes the files to the paths that it is given, and returns the result under its final paths.

        Returns:
            What `write` returned.

        Raises:
            OutputError: a file cannot be written.
        """
        with scratch_folder(task.mask.parent) as scratch:
            drafts = CaseFiles(task.source, *(scratch / path.name for path in task[1:]))
            result = write(drafts)
            finals = dict(zip(drafts[1:], task[1:], strict=True))
            written = sorted(scratch.iterdir(), key=lambda file: (file == drafts.mask, file))  # the mask goes last
            files = {file: finals.get(file, task.mask.with_name(file.name)) for file in written}
            told = {
                "overlay": result.overlay is not None,
                "objects": [asdict(one) for one in result.objects],
                "warnings": list(result.warnings),
                "intensities": result.intensities,
            }
            hashes = {self._name(final): sha256_of(file) for file, final in files.items()}
            entry = Entry(self._name(task.mask), hashes, os.fspath(task.source), made_of, self.run, told)
            self.journal.add(entry)
            # Names or a picture of the mask that is replaced would be taken for those of the new one.
            publish(files, replaced=[path for path in task[1:] if path not in files.values()])
        return result

    def _name(self, path: Path) -> str:
        return path.absolute().relative_to(self.folder).as_posix()

    def _is_whole(self, entry: Entry) -> bool:
        return all(self._is_part(self.folder / name, entry) for name in entry.files)

    def _is_part(self, path: Path, entry: Entry) -> bool:
        """Whether a file is the one that the entry tells of."""
        expected = entry.files.get(self._name(path))
        try:
            return expected is not None and path.is_file() and sha256_of(path) == expected
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror or error}; check the path") from error

    def _result(self, entry: Entry, task: CaseFiles) -> InferResult:
        told = entry.result
        try:
            return InferResult(
                task.source,
                task.mask,
                task.overlay if told["overlay"] else None,
                tuple(ObjectResult(**one) for one in told["objects"]),
                warnings=tuple(map(str, told["warnings"])),
                intensities=str(told["intensities"]),
                finished_before=True,
            )
        except (KeyError, TypeError) as error:
            file = self.folder / JOURNAL
            raise OutputError(f"the line of {entry.mask} in {file} lacks {error}; remove it") from None


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that differs, in words."""
    name = next(k for k in {**now, **before} if before.get(k) != now.get(k))
    if name in ("input", "mask to begin with"):
        return f"from another content of the {name}"
    if name == "bundle":
        return "with another bundle"
    if name == "gstk":
        return f"by gstk {before.get(name)}, which is now {now.get(name)}"
    return f"with {name} {_short(before.get(name))}, which is now {_short(now.get(name))}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
