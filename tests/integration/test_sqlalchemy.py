"""Searching in SQLAlchemy's statements: joins, filters, vectors, errors; by each driver."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import Executable, ForeignKey, Integer, MetaData, Table, and_, bindparam, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship

from pgmeaning.errors import ArgumentError, CollectionError, ModelNotFound
from pgmeaning.integrations.sqlalchemy import as_pgmeaning_error, embed, embeddings, search, translate_errors
from tests.integration.shop import shop
from tests.integration.test_connecting import url


class Base(DeclarativeBase):
    pass


class Maker(Base):
    __tablename__ = "maker"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    heading: Mapped[str] = mapped_column("title")
    price: Mapped[Decimal]
    in_stock: Mapped[bool]
    maker_id: Mapped[int] = mapped_column(ForeignKey(Maker.id))
    added: Mapped[date]
    maker: Mapped[Maker] = relationship()


class Odd(Base):
    __tablename__ = "Odd % one"
    __table_args__ = {"schema": "shop"}  # noqa: RUF012
    of: Mapped[UUID] = mapped_column("Of", primary_key=True)
    number: Mapped[int] = mapped_column("No.", primary_key=True)
    body: Mapped[str]


@pytest.fixture(scope="module")
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    with shop(server_dsn, template) as made:
        yield made


@pytest.fixture(scope="module")
def engine(dsn: str) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(url(dsn))
    yield made
    made.dispose()


@pytest.fixture
def session(engine: sqlalchemy.Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made


DRIVERS = ["psycopg", "async psycopg", "asyncpg"]


def run(dsn: str, engine: sqlalchemy.Engine, driver: str, statement: Executable) -> Sequence[Any]:
    """A statement's rows by a driver, in a session of its kind."""
    if driver == "psycopg":
        with Session(engine) as session:
            return session.execute(statement).all()

    async def _run() -> Sequence[Any]:
        made = create_async_engine(url(dsn, driver.split()[-1]))
        try:
            async with AsyncSession(made) as session:
                return (await session.execute(statement)).all()
        finally:
            await made.dispose()

    return asyncio.run(_run())


# What is found


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_search_joins_and_filters_with_the_orm(dsn: str, engine: sqlalchemy.Engine, driver: str) -> None:
    hit = search(Product, "seven", k=3, filter=Product.price.in_([7, 8, 9]))
    statement = (
        select(Product, hit.score, hit.rank, Maker.name)
        .join(hit, hit.on)
        .join(Product.maker)
        .where(hit.distance < 2)
        .order_by(hit.rank)
    )
    rows = run(dsn, engine, driver, statement)
    assert (rows[0][0].heading, rows[0][1], rows[0][2:]) == ("title 7", pytest.approx(1), (1, "Bell"))
    assert {row[0].id for row in rows} == {7, 8, 9}


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_argument_reaches_the_database(dsn: str, engine: sqlalchemy.Engine, driver: str) -> None:
    hit = search(
        Product, "seven", k=2, collection="product", filter="price < $1 AND in_stock = $2", filter_params=[12.5, False],
        mode="hybrid", candidates=50, grouped=False, timeout=5, weights=[1, 0.5], name="found",
    )  # fmt: skip
    [first, _] = run(dsn, engine, driver, select(hit).order_by(hit.rank))
    assert first.key == {"id": 7}
    assert (first.model, first.vector_rank, first.key_id, first.chunk_text) == ("synthetic-384", 1, 7, None)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_query_may_be_a_parameter_and_pages_go_on(dsn: str, engine: sqlalchemy.Engine, driver: str) -> None:
    pages: list[int] = []
    last: tuple[float, object] | None = None
    for _ in range(3):
        hit = search(Product, bindparam("query", "seven"), k=7, after=last)
        found = run(dsn, engine, driver, select(hit.distance, hit.hit_key).order_by(hit.rank))
        pages += [row.key["id"] for row in found]
        last = (found[-1].distance, found[-1].key)
    assert pages[0] == 7
    assert sorted(pages) == list(range(1, 21))


@pytest.mark.parametrize("driver", DRIVERS)
def test_vectors_are_an_entity_with_operators(dsn: str, engine: sqlalchemy.Engine, driver: str) -> None:
    vectors = embeddings(Product)
    distance = vectors.embedding.cosine_distance(embed("seven", collection="product")).label("distance")
    statement = select(Product, distance, vectors).join(vectors).order_by(distance).limit(2)
    rows = run(dsn, engine, driver, statement)
    assert (rows[0][0].id, rows[0].distance) == (7, pytest.approx(0, abs=1e-6))
    assert (len(rows[0][2].embedding), rows[0][2].model, rows[0][2].chunk) == (384, "synthetic-384", 0)


@pytest.mark.parametrize("driver", DRIVERS)
def test_keys_of_several_columns_and_odd_names_are_joined(dsn: str, engine: sqlalchemy.Engine, driver: str) -> None:
    hit = search(Odd, "body", k=1, filter=Odd.number > 1)
    [(row, score)] = run(dsn, engine, driver, select(Odd, hit.score).join(hit, hit.on))
    assert (row.number, score) == (3, pytest.approx(1, abs=1e-3))
    vectors = embeddings(Odd, "odd", vector_type="halfvec")
    distance = vectors.embedding.cosine_distance(embed("body", collection="odd"))
    [(row, _)] = run(dsn, engine, driver, select(Odd, distance).join(vectors).order_by(distance).limit(1))
    assert row.number == 3


def test_an_alias_a_table_and_a_subquery_are_searched_too(session: Session) -> None:
    other = aliased(Product)
    hit = search(other, "seven", k=3, filter=other.in_stock)
    assert len(session.scalars(select(other).join(hit, hit.on)).all()) == 3
    same = search(Product, "seven", k=3)
    assert len(session.execute(select(other, Product).join(same, same.of(other)).join(Product, same.on)).all()) == 3
    table = Table("product", MetaData(), sqlalchemy.Column("id", Integer, primary_key=True))
    hit = search(table, "seven", k=1)
    assert session.execute(select(table.c.id).join(hit, hit.on)).scalar_one() == 7
    inner = select(Product.id).join(same, same.on).where(same.rank == 1).scalar_subquery()
    assert session.scalars(select(Product).where(Product.id == inner)).one().id == 7
    assert session.execute(select(func.count()).select_from(same)).scalar_one() == 3


def test_statements_are_cached_and_differ_by_their_values(engine: sqlalchemy.Engine, session: Session) -> None:
    def of(query: str, number: int) -> list[int]:
        hit = search(Product, query, k=1, filter=Product.id != number)
        return list(session.scalars(select(Product.id).join(hit, hit.on)))

    assert of("seven", 1) == [7]
    before = len(engine._compiled_cache or ())
    assert of("seven", 2) == [7]
    assert of("seven", 7) != [7]
    assert len(engine._compiled_cache or ()) == before
    other = search(Odd, "body", k=1)  # the same statement, of another table
    assert session.execute(select(other.hit_key)).scalar_one()["No."] == 3


# Filters


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (Product.price.between(3, 5), {3, 4, 5}),
        (and_(Product.in_stock, Product.price > Decimal("17.5")), {18, 20}),
        (or_(Product.heading == "title 4", Product.heading.like("%1_")), {4, *range(10, 20)}),
        (Product.heading == "it's 100 % $1 \\", set()),
        (Product.added == date(2026, 1, 3), {2}),
        (Product.maker_id.is_(None), set()),
        (Product.id.in_([]), set()),
        (~Product.in_stock & (func.mod(Product.id, 5) == 0), {5, 15}),
    ],
    ids=str,
)
def test_a_condition_on_the_entity_is_a_filter(session: Session, condition: Any, wanted: set[int]) -> None:
    hit = search(Product, "seven", k=20, filter=condition)
    assert set(session.scalars(select(Product.id).join(hit, hit.on))) == wanted


def test_what_is_no_filter_of_the_table_is_refused() -> None:
    with pytest.raises(ArgumentError, match="another table than product"):
        search(Product, "seven", filter=Maker.name == "Acme")
    with pytest.raises(ArgumentError, match="filter_params are for"):
        search(Product, "seven", filter=Product.in_stock, filter_params=[1])
    with pytest.raises(ArgumentError, match="has no table"):
        search("product", "seven")


# Errors


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_errors_are_pgmeanings_where_that_was_asked_for(dsn: str, driver: str) -> None:
    wrong = select(search(Product, "seven", collection="nope"))

    async def _run() -> None:
        made = create_async_engine(url(dsn, driver))
        async with AsyncSession(made) as session:
            with pytest.raises(DBAPIError) as wrapped:
                await session.execute(wrong)
            found = as_pgmeaning_error(wrapped.value)
            assert isinstance(found, CollectionError)
            await session.rollback()
            for _ in range(2):
                translate_errors(made)
            with pytest.raises(CollectionError, match="nope") as caught:
                await session.execute(wrong)
            assert caught.value.sqlstate == "PM001"
            assert caught.value.hint == found.hint
            assert caught.value.hint
            await session.rollback()
            with pytest.raises(ModelNotFound):
                await session.execute(select(embed("x", model="nope")))
            await session.rollback()
            with pytest.raises(DBAPIError):  # not ours
                await session.execute(sqlalchemy.text("SELECT 1/0"))
        await made.dispose()

    asyncio.run(_run())


def test_a_table_that_is_not_attached_says_so(dsn: str) -> None:
    engine = sqlalchemy.create_engine(url(dsn))
    translate_errors(engine)
    with engine.connect() as connection, pytest.raises(CollectionError, match="not the row type of an attached table"):
        connection.execute(select(search(Maker, "x")))
    engine.dispose()
