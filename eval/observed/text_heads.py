"""The lines above the numbers of a text: names of columns, however they are written, become one line of them."""

import re

from astropy import units as astropy_units

from kinmass.eval.observed.fits_units import name_and_unit, read_unit

#: So many lines of a text are looked at for its line of names.
MOST_LINES_BEFORE = 200

#: A list of columns by their numbers, of which one may be a vector (SExtractor), has so many lines.
FEWEST_NUMBERED = 3
#: What other programs than astropy begin a comment with; a semicolon alone in its line, for it may part columns.
_COMMENT = re.compile(r"\s*(?:#|%|!|//|;(?!.*;))+(.*)")
#: A comment on one column alone: `column 3: V [km/s]`, `(3) V  of the gas [km/s]`, `Col 3 = V, km/s`.
_ONE_COLUMN = re.compile(r"#+\s*(?:col(?:umn)?\.?\s*)?[\[(]?(\d+)[\])]?\s*[-:.=]?\s+(\S+?)[:,;]?(?:\s+(.*?))?\s*", re.I)


def without_frame(lines: list[str]) -> list[str]:
    """Return the lines of a text without the bars that begin and end all of them, and without its lines of dashes.

    So astropy's fixed_width, Markdown and databases write; the numbers of IPAC's tables have no bars.
    """
    kept = [line for line in lines if not re.fullmatch(r"[-:=|+\s]+", line)]
    rows = [line.strip() for line in kept if line.strip() and not line.startswith("#")]
    if not rows or not all(row.startswith("|") and row.endswith("|") for row in rows):
        return lines
    return [line if line.startswith("#") else line.strip()[1:-1].strip() for line in kept]


#: What stands between the numbers of a text; None for blanks.
_BETWEEN = (",", ";", "\t", "|", None)


def words_of(line: str, between: str | None) -> list[str]:
    """Return what stands in a line between commas or the like, or blanks (None), without quotes."""
    return [word.strip(" \t\"'") for word in line.split(between)]


def first_row(lines: list[str]) -> tuple[int, int, str | None]:
    """Return which line has a text's first numbers, how many columns that has, and what stands between them.

    Where there is none, or there are fewer than three columns, the first line and no column.
    """
    for i, line in enumerate(lines[:MOST_LINES_BEFORE]):
        for between in _BETWEEN:
            n_columns = len(words := words_of(line, between))
            if not (line.startswith("#") or n_columns < 3 or sum(map(is_number, words)) < 0.5 * n_columns):
                return i, n_columns, between
    return 0, 0, None


def with_units_at_names(lines: list[str]) -> list[str]:
    """Return lines of which that of names has no blanks before the brackets of units: `# X [arcsec] V [km/s]`.

    Such lines stand above the numbers and have as many words as these only then. What has commas or tabs between its
    names, and is no comment, has no need of it.
    """
    i, n_columns, between = first_row(lines)
    joined = [re.sub(r"(?<=[^\s#\])]) +(?=[\[(][^\[\]()]*[\])])", "", line) for line in lines[:i]]
    is_fitting = [
        len(new.lstrip("#").split()) == n_columns and (between is None or line.startswith("#"))
        for line, new in zip(lines, joined, strict=False)
    ]
    return [new if fits else line for line, new, fits in zip(lines, joined, is_fitting, strict=False)] + lines[i:]


def is_number(text: str) -> bool:
    """Whether a text is a number, nan and inf among them."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_of_maps(unit: str | None) -> bool:
    """Whether a unit is one that places or velocities have."""
    kinds = (astropy_units.arcsec, astropy_units.pix, astropy_units.kpc, astropy_units.km / astropy_units.s)
    return unit is not None and any(read_unit(unit).unit.is_equivalent(kind) for kind in kinds)


def with_one_line_of_names(lines: list[str]) -> list[str]:
    """Return the lines of a text of which comments begin with #, with the names of columns in one comment of them.

    Names may stand in a comment for each column, or be parted by commas or bars where the numbers are not.
    """
    lines = [f"#{match[1]}" if (match := _COMMENT.fullmatch(line)) else line for line in lines]
    i, n_columns, between = first_row(lines)
    above, told = lines[:i], [_ONE_COLUMN.fullmatch(line) for line in lines[:i]]
    for first in (0, 1):
        is_one = [match is not None and first <= int(match[1]) < first + n_columns for match in told]
        numbered = {int(match[1]): match for match, is_in in zip(told, is_one, strict=True) if match and is_in}
        if n_columns == len(numbered) == sum(is_one):
            names = [_name_with_unit(numbered[k][2], numbered[k][3] or "") for k in sorted(numbered)]
            others = [line for line, match in zip(above, told, strict=True) if not match]
            return [f"# {' '.join(names)}", *others, *lines[i:]]
    if sum(map(bool, told)) < FEWEST_NUMBERED:  # astropy would make columns of `# 77 rows`
        above = [line for line, match in zip(above, told, strict=True) if not match]
    return [_parted_by_blanks(line, n_columns) if between is None else line for line in above] + lines[i:]


def _name_with_unit(name: str, words: str) -> str:
    """Return the name of a column with the unit after it in brackets, without blanks, that words on it tell."""
    in_brackets = re.findall(r"[\[(]([^\[\]()]*)[\])]", words)
    texts = [*in_brackets, *re.split(r"[\s,;:\[\]()]+", words)]
    found = [text for text in texts if name_and_unit(f"{name} [{text}]")[1]]
    unit = next((text for text in found if text in in_brackets or is_of_maps(text)), None)
    return name if unit is None else f"{name}[{unit.strip().replace(' ', '.')}]"


def _parted_by_blanks(line: str, n_columns: int) -> str:
    """Return a comment that has as many names as there are columns, between commas or bars, with blanks for these."""
    for between in (",", "|", ";", "\t"):
        names = words_of(line.lstrip("#").strip(), between) if line.startswith("#") else []
        if len(names) == n_columns and all(names):
            return "# " + " ".join(re.sub(r"\s+", "_", re.sub(r"\s+(?=[\[(])", "", name)) for name in names)
    return line
