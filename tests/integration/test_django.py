"""Searching in Django's querysets, and collections in its migrations, in a small project."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from io import StringIO
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

pytest.importorskip("django", reason="django is not installed")

import django
from django.conf import settings
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import Avg, Exists, F, OuterRef, Q

from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.integrations.django import translated_errors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.integration.docs import cache
from tests.integration.shop import database


@pytest.fixture(scope="session")  # Django takes settings once a process
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A project's database, migrated, filled and embedded."""
    with database(server_dsn, template) as dsn:
        given = conninfo_to_dict(dsn)
        settings.configure(
            INSTALLED_APPS=["tests.integration.django_shop"],
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    **{name: given.get(key, "") for name, key in PARTS.items()},
                }
            },
            USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        )
        django.setup()
        call_command("migrate", "django_shop", "0001", verbosity=0)
        fill()
        assert Sidecar(dsn, Settings()).run(drain=True) == 0
        with psycopg.connect(dsn, autocommit=True) as db:
            for text, like in {"seven": "title 7", "line": "text 3"}.items():
                cache(db, text, like=like)
        yield dsn
        connections.close_all()


PARTS = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}


def fill() -> None:
    from tests.integration.django_shop.models import Line, Maker, Product

    makers = [Maker.objects.create(name=name) for name in ("Acme", "Bell")]
    for i in range(1, 21):
        Product.objects.create(id=i, title=f"title {i}", price=i, in_stock=i % 2 == 0, maker=makers[i % 2])
        Line.objects.create(order=i, place=date(2026, 1, i), text=f"text {i}")


@pytest.fixture
def products(dsn: str) -> Any:
    from tests.integration.django_shop.models import Product

    return Product.objects


# Searching


def test_a_search_is_a_queryset_in_the_order_of_the_hits(products: Any) -> None:
    found = products.search("seven", k=5, prefix="hit_")
    assert [row.hit_rank for row in found] == [1, 2, 3, 4, 5]
    assert (found[0].title, found[0].hit_score) == ("title 7", pytest.approx(1))
    assert found[0].hit_distance == pytest.approx(0, abs=1e-6)
    assert (found.count(), found.exists(), len(found[2:4])) == (5, True, 2)


def test_it_chains_with_filters_annotations_and_joins(products: Any) -> None:
    found = (
        products.filter(price__gt=3)
        .search("seven", k=20, prefix="hit_")
        .select_related("maker")
        .filter(maker__name="Bell", hit_score__gt=-1)
        .exclude(id=9)
        .annotate(double=F("hit_score") * 2)
    )
    assert found[0].id == 7
    assert {row.id for row in found} == {5, 7, 11, 13, 15, 17, 19}
    assert found[0].double == pytest.approx(2)
    assert list(found.values_list("id", flat=True)[:1]) == [7]
    assert float(found.aggregate(mean=Avg("price"))["mean"]) == pytest.approx(87 / 7)
    assert found.order_by("-price")[0].id == 19


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (Q(price__gt=Decimal("17.5"), in_stock=True), {18, 20}),
        (Q(title="title 4") | Q(title__startswith="title 1", price__lt=11), {1, 4, 10}),
        (~Q(id__in=range(4, 21)), {1, 2, 3}),
        (Q(title="it's 100 % $1 \\"), set()),
        ({"in_stock": False, "id": [1, 2, 3]}, {1, 3}),
        ("price < 3", {1, 2}),
    ],
    ids=str,
)
def test_a_filter_is_applied_within_the_search(products: Any, condition: Any, wanted: set[int]) -> None:
    assert {row.id for row in products.search("seven", k=20, prefix="hit_", filter=condition)} == wanted


def test_every_argument_reaches_the_database(products: Any) -> None:
    found = products.search(
        "seven", k=3, collection="django_shop_product", filter="price < $1", filter_params=[8.5], mode="hybrid",
        candidates=50, timeout=5, weights=(1, 0.5), prefix="hit_",
    )  # fmt: skip
    assert found[0].id == 7


def test_a_searched_queryset_may_be_a_subquery_and_may_be_written_through(products: Any) -> None:
    from tests.integration.django_shop.models import Maker

    nearest = products.search("seven", k=1, prefix="hit_")
    assert list(Maker.objects.filter(products__in=nearest.values("id")).values_list("name", flat=True)) == ["Bell"]
    assert [row.id for row in products.filter(id__in=nearest.values("id"))] == [7]
    assert Maker.objects.filter(Exists(nearest.filter(maker=OuterRef("pk")))).count() == 1
    assert nearest.filter(id=7).update(in_stock=True) == 1
    assert products.get(id=7).in_stock


def test_keys_of_several_columns_are_joined(dsn: str) -> None:
    from tests.integration.django_shop.models import Line

    first = Line.objects.search("line", k=2)[0]
    assert (first.pk, first.text) == ((3, date(2026, 1, 3)), "text 3")


def test_a_search_works_within_atomic_and_sees_what_it_did(products: Any) -> None:
    with transaction.atomic():
        products.filter(id=7).delete()
        assert products.search("seven", k=1, prefix="hit_")[0].id != 7
        transaction.set_rollback(True)
    assert products.search("seven", k=1, prefix="hit_")[0].id == 7


# Errors


def test_what_the_database_refuses_is_pgmeanings_error(products: Any) -> None:
    with pytest.raises(CollectionError, match="nope") as caught:
        list(products.search("seven", collection="nope", prefix="hit_"))
    assert caught.value.sqlstate == "PM001"
    with pytest.raises(CollectionError), translated_errors():
        products.search("seven", collection="nope", prefix="hit_").count()
    with pytest.raises(IntegrityError), translated_errors(), transaction.atomic():
        products.create(id=7, title="x", price=1, maker_id=1)


def test_wrong_arguments_are_refused(products: Any) -> None:
    with pytest.raises(ValueError, match=r"conflicts with a field"):
        products.search("seven")  # the model has a field of that name
    with pytest.raises(ArgumentError, match="searched already"):
        products.search("seven", prefix="a_").search("seven", prefix="b_")
    with pytest.raises(ArgumentError, match="cannot be applied within the search"):
        list(products.search("seven", prefix="hit_", filter=Q(maker__name="Acme")))
    with pytest.raises(ArgumentError, match="k is 'x'"):
        products.search("seven", "x")


# Migrations


def collections() -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, template, role FROM pgmeaning.collection ORDER BY name")
        return [tuple(row) for row in cursor.fetchall()]


def test_migrations_run_forwards_and_backwards(dsn: str) -> None:
    after = [
        ("django_shop_product", None, "active"),
        ("django_shop_product@2", "It's {the title}", "filling"),
    ]
    call_command("migrate", "django_shop", "0002", verbosity=0)
    assert collections() == after
    call_command("migrate", "django_shop", "0001", verbosity=0)
    assert collections() == [("django_shop_product", None, "active"), ("lines", None, "active")]
    call_command("migrate", "django_shop", "0002", verbosity=0)
    assert collections() == after
    call_command("migrate", "django_shop", "zero", verbosity=0)
    assert collections() == []
    call_command("migrate", "django_shop", verbosity=0)
    assert collections() == after


def test_the_models_need_no_migration_of_their_own(dsn: str) -> None:
    call_command("makemigrations", "django_shop", check=True, dry_run=True, verbosity=0)


def test_the_sql_of_a_migration_can_be_printed(dsn: str) -> None:
    printed = StringIO()
    call_command("sqlmigrate", "django_shop", "0002", stdout=printed)
    assert "pgmeaning.swap_start('django_shop_product', template => 'It''s {the title}')" in printed.getvalue()
    assert "pgmeaning.detach('lines')" in printed.getvalue()
