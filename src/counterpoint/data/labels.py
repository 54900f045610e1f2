"""Labels of files people bring: names or numbers of any kind -> class indices, with the names kept."""

from __future__ import annotations

from typing import Any

from counterpoint.data.rows import Rows

__all__ = ["code_labels"]

_MANY = 100_000  # distinct values above which a column holds no classes


def code_labels(rows: Rows) -> Rows:
    """Rows whose `label` is a class index in [0, K) and whose `class_names` has K names.

    Names are sorted. Whole numbers, also those written as text, that count from 0 with few gaps stay what
    they are; others are numbered in their order. Labels that are fractions, lists or different for every row
    stay untouched, without class names.
    """
    if "label" not in rows.columns or rows.class_names is not None:
        return rows
    distinct: set[Any] = set()
    for value in rows.raw_column("label"):
        if value is None or value == "":  # not labelled
            continue
        if isinstance(value, (list, dict)) or len(distinct) > _MANY:
            return rows
        distinct.add(value)
    numbers = {value: _whole(value) for value in distinct}
    if all(number is not None for number in numbers.values()):
        return _number_classes(rows, numbers)  # type: ignore[arg-type]
    if not all(isinstance(value, str) for value in distinct):
        return rows
    names = sorted(distinct)
    return rows.with_codes({name: code for code, name in enumerate(names)}, names)


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (TypeError, ValueError, OverflowError):
        return None


def _number_classes(rows: Rows, numbers: dict[Any, int]) -> Rows:
    found = sorted(set(numbers.values()))
    if not found:
        return rows
    if found[0] >= 0 and found[-1] + 1 <= 2 * len(found):
        return rows.with_codes(numbers, [str(code) for code in range(found[-1] + 1)])
    places = {number: place for place, number in enumerate(found)}
    return rows.with_codes({value: places[n] for value, n in numbers.items()}, [str(number) for number in found])
