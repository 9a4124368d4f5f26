"""Every column of every table has its meaning, and every meaning a column."""

import pandas as pd

from kinmass.eval.tables.columns import MEANINGS, TABLES, meaning


def test_columns_of_all_tables_have_a_meaning(results):
    columns = {path.stem: list(pd.read_csv(path)) for path in results.glob("*.csv")}
    assert columns.keys() == TABLES.keys()
    used = {column for names in columns.values() for column in names}
    assert all(map(meaning, used))
    assert MEANINGS.keys() <= used
