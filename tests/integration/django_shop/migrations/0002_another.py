"""A swap of one collection, and the end of the other."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from pgmeaning.integrations.django import AlterCollection, AttachCollection, DetachCollection


class Migration(migrations.Migration):
    dependencies: ClassVar[list[Any]] = [("django_shop", "0001_initial")]
    operations: ClassVar[list[Any]] = [
        AlterCollection("django_shop_product", template="It's {the title}", before={"template": ""}),
        DetachCollection("lines", attached=AttachCollection("Line", ["text"], collection="lines")),
    ]
