"""A small shop."""

from __future__ import annotations

from django.db import models

from pgmeaning.integrations.django import SearchManager


class Maker(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "django_shop"


class Product(models.Model):
    title = models.TextField(db_column="the title")
    price = models.DecimalField(max_digits=9, decimal_places=2)
    in_stock = models.BooleanField(default=True)
    score = models.IntegerField(default=0)
    maker = models.ForeignKey(Maker, models.CASCADE, related_name="products")

    objects: SearchManager[Product] = SearchManager()

    class Meta:
        app_label = "django_shop"


class Line(models.Model):
    pk = models.CompositePrimaryKey("order", "place")
    order = models.IntegerField()
    place = models.DateField()
    text = models.TextField()

    objects: SearchManager[Line] = SearchManager()

    class Meta:
        app_label = "django_shop"
