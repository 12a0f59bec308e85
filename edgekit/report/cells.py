"""The cells of a run with thousands of them: packed, and plain dicts while somebody looks at them."""

from __future__ import annotations

import itertools
import marshal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from edgekit.types import Json

LIVE = 1000  # cells of a report that are kept as they are; of more, all are packed
PLAIN = frozenset((int, float, str, bool, type(None)))
ALIKE = ("system", "artifact", "accuracy", "fidelity")  # what cells share: the device, and what one file is and answers


class Cell(dict[str, Any]):
    """A dict that one can refer to without keeping it."""

    __slots__ = ("__weakref__",)


class Cells(Sequence[Json]):
    """Cells in their order, each some hundreds of bytes instead of thousands.

    As long as somebody holds a cell, the same object is given again; what is changed in one that nobody holds is lost.
    """

    def __init__(self, cells: Iterable[Json] = ()) -> None:
        self._rows: list[bytes] = []
        self._shapes: dict[tuple[str, ...], int] = {}  # the keys of a dict -> their number
        self._keys: list[tuple[str, ...]] = []
        self._parts: list[Any] = []  # the values of ALIKE, each as often as it changed from cell to cell
        self._last: dict[str, int] = {}
        self._held: weakref.WeakValueDictionary[int, Cell] = weakref.WeakValueDictionary()
        for cell in cells:
            self.append(cell)

    def append(self, cell: Json) -> None:
        """Add a copy of a cell."""
        self._rows.append(self._pack(cell))

    def change(self, place: int, cell: Json) -> None:
        """Pack a cell again that was changed."""
        self._rows[place] = self._pack(cell)

    def _pack(self, cell: Json) -> bytes:
        plain = {key: self._part(key, value) if key in ALIKE else value for key, value in cell.items()}
        return marshal.dumps(self._folded(plain))

    def _part(self, key: str, value: object) -> int:
        """The number of a part that cells share."""
        last = self._last.get(key)
        if last is None or self._parts[last] != value:
            self._parts.append(value)
            last = self._last[key] = len(self._parts) - 1
        return last

    def _folded(self, value: Any) -> Any:
        """JSON without the keys of its dicts, which become tuples that begin with the number of their keys."""
        if isinstance(value, dict):
            keys = tuple(value)
            number = self._shapes.get(keys)
            if number is None:
                number = self._shapes[keys] = len(self._keys)
                self._keys.append(keys)
            return (number, *[item if type(item) in PLAIN else self._folded(item) for item in value.values()])
        if isinstance(value, (list, tuple)):
            return [self._folded(item) for item in value]
        if type(value) in PLAIN:
            return value
        # marshal takes these types themselves alone: numbers of numpy, which are like them, would come back as bytes.
        return next(kind for kind in (int, float, str) if isinstance(value, kind))(value)

    def _unfolded(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return dict(zip(self._keys[value[0]], map(self._unfolded, value[1:]), strict=True))
        if isinstance(value, list):
            return [self._unfolded(item) for item in value]
        return value

    def _at(self, place: int) -> Json:
        found = self._held.get(place)
        if found is None:
            found = Cell(self._unfolded(marshal.loads(self._rows[place])))
            for key in ALIKE:
                if key in found:
                    found[key] = self._parts[found[key]]
            self._held[place] = found
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Json]:
        return map(self._at, itertools.takewhile(lambda place: place < len(self._rows), itertools.count()))

    @overload
    def __getitem__(self, place: int) -> Json: ...
    @overload
    def __getitem__(self, place: slice) -> list[Json]: ...
    def __getitem__(self, place: int | slice) -> Json | list[Json]:
        places = range(len(self._rows))[place]
        return self._at(places) if isinstance(places, int) else [self._at(one) for one in places]


def append(cells: list[Json] | Cells, cell: Json) -> list[Json] | Cells:
    """The cells with one more: the same list, or all of them packed when they become many."""
    cells.append(cell)
    return Cells(cells) if isinstance(cells, list) and len(cells) > LIVE else cells


def tell(cells: list[Json] | Cells, place: int, warning: Json) -> None:
    """Add a warning to a cell."""
    cell = cells[place]
    cell["warnings"].append(warning)
    if isinstance(cells, Cells):
        cells.change(place, cell)
