"""The tables, and what is embedded of them: in one migration, so in one transaction."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations, models

from pgmeaning.integrations.django import AttachCollection

ID: Any = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [
        migrations.CreateModel("Maker", [("id", ID), ("name", models.TextField())]),
        migrations.CreateModel(
            "Product",
            [
                ("id", ID.clone()),
                ("title", models.TextField(db_column="the title")),
                ("price", models.DecimalField(max_digits=9, decimal_places=2)),
                ("in_stock", models.BooleanField(default=True)),
                ("score", models.IntegerField(default=0)),
                ("maker", models.ForeignKey("django_shop.maker", models.CASCADE, related_name="products")),
            ],
        ),
        migrations.CreateModel(
            "Line",
            [
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "order", "place", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("order", models.IntegerField()),
                ("place", models.DateField()),
                ("text", models.TextField()),
            ],
        ),
        AttachCollection("Product", ["title"], language="simple"),
        AttachCollection("django_shop.Line", ["text"], collection="lines"),
    ]
