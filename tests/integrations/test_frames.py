"""Frames of pandas and polars: their doctests, and what these do not show."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pandas
import polars
import pytest

from pgmeaning import Client, Hit
from pgmeaning.integrations import pandas as with_pandas
from pgmeaning.integrations import polars as with_polars


@pytest.fixture
def recipes(shared_client: Client) -> Any:
    """The collection that the examples speak of, for which a sidecar need not run: queries are in the cache."""
    shared_client.connection.execute(
        "CREATE TABLE recipes (id int PRIMARY KEY, title text, minutes int); "
        "INSERT INTO recipes VALUES (1, 'rice', 30), (2, 'bread', 90), (3, 'tea', 5), (4, ' ', 1)"
    )
    shared_client.attach("recipes", ["title"])
    shared_client.embed_rows("recipes", [1, 2, 3, 4])
    yield shared_client
    shared_client.detach("recipes")
    shared_client.connection.execute("DROP TABLE recipes")


@pytest.mark.usefixtures("shared_sidecar")
@pytest.mark.parametrize("module", [with_pandas, with_polars], ids=["pandas", "polars"])
def test_the_examples_run(module: Any, recipes: Client) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, globs={**vars(module), "client": recipes}):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= 4


def test_a_column_of_a_measures_name_keeps_it() -> None:
    hit = Hit({"id": 1}, {"id": 1, "score": "mine"}, 0.25, 0.75, model="m")
    frame = with_pandas.hits_frame([hit])
    assert frame.loc[0, ["score", "score_", "distance", "model"]].tolist() == ["mine", 0.75, 0.25, "m"]
    assert with_polars.hits_frame([hit])["score_"].to_list() == [0.75]


def test_frames_without_rows_have_their_columns(recipes: Client) -> None:
    assert {"distance", "score"} <= set(with_pandas.hits_frame([]).columns) & set(with_polars.hits_frame([]).columns)
    assert with_pandas.vectors_frame(recipes, "recipes", "false").empty
    assert with_polars.vectors_frame(recipes, "recipes", "false").is_empty()
    nothing = with_polars.embed(recipes, polars.Series("t", [None], dtype=polars.String), collection="recipes")
    assert nothing.null_count() == 1


def test_both_have_the_same_vectors(recipes: Client) -> None:
    pandas_frame = with_pandas.vectors_frame(recipes, "recipes")
    polars_frame = with_polars.vectors_frame(recipes, "recipes")
    assert pandas_frame["id"].tolist() == polars_frame["id"].to_list() == [1, 2, 3]
    assert np.array_equal(np.stack(pandas_frame["embedding"].tolist()), polars_frame["embedding"].to_numpy())
    texts = ["rice", "tea", "rice"]
    made = with_pandas.embed(recipes, pandas.Series(texts), collection="recipes", local=True)
    same = with_polars.embed(recipes, polars.Series(texts), collection="recipes", local=True)
    assert np.array_equal(np.stack(made.tolist()), same.to_numpy())
