"""Search a mapped class by meaning: joined with the rows, filtered within the search, and errors as pgmeaning's.

First run `pgmeaning migrate` and `pgmeaning sidecar` against the same database, which PGMEANING_DSN names, as a URL
such as postgresql+psycopg://user@host/database.
"""

from __future__ import annotations

import os

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgmeaning
from pgmeaning.integrations.sqlalchemy import embed, embeddings, search, translate_errors


class Base(DeclarativeBase):
    """The tables."""


class Product(Base):
    """What the shop sells."""

    __tablename__ = "example_product"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    in_stock: Mapped[bool]


def main() -> None:
    """Print the products in stock that are nearest to a query, twice."""
    engine = create_engine(os.environ["PGMEANING_DSN"])
    translate_errors(engine)
    Base.metadata.create_all(engine)
    client = pgmeaning.connect(engine)
    with Session(engine) as session:
        for number, title in enumerate(["Red bicycle", "Blue car", "Bicycle pump", "Scarlet racing bike"], start=1):
            session.merge(Product(id=number, title=title, in_stock=number != 3))
        session.commit()
    if not any(row["collection"] == "example_product" for row in client.status()):
        client.attach("example_product", ["title"])
    client.wait_for("example_product")
    with Session(engine) as session:
        hit = search(Product, "red bike", k=2, filter=Product.in_stock)
        for product, score in session.execute(select(Product, hit.score).join(hit, hit.on).order_by(hit.rank)):
            print(f"{score:.2f}  {product.title}")
        vectors = embeddings(Product)
        distance = vectors.embedding.cosine_distance(embed("red bike", collection="example_product"))
        nearest = select(Product).join(vectors).where(Product.in_stock).order_by(distance).limit(2)
        print([product.title for product in session.scalars(nearest)])


if __name__ == "__main__":
    main()
