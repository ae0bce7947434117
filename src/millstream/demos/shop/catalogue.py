"""What the shop sells and how much of it is on the shelf when the shop opens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """One thing on the shelf; `demand` is how often customers want it, compared with the others."""

    sku: str
    name: str
    about: str
    price: int
    initial_stock: int
    demand: int


PRODUCTS = (
    Product("flour-rye", "Rye flour, 1\u00a0kg", "Stone-ground, whole grain", 349, 5_000_000, 20),
    Product("flour-spelt", "Spelt flour, 1\u00a0kg", "Fine, for cakes and pasta", 429, 5_000_000, 20),
    Product("oats", "Rolled oats, 500\u00a0g", "From oats of one field", 259, 5_000_000, 24),
    Product("semolina", "Durum semolina, 1\u00a0kg", "Coarse, for gnocchi and bread", 319, 5_000_000, 16),
    Product("hand-mill", "Hand mill, beech", "Grinds 100 g a minute; few are made", 8900, 60, 3),
    Product("millstone", "Millstone, granite, 30\u00a0cm", "Cut to order; twelve a year", 24900, 12, 1),
)
BY_SKU = {product.sku: product for product in PRODUCTS}


def money(cents: int) -> str:
    """Cents as people write them: 1234567 is '12 345.67 €'."""
    return f"{cents // 100:,}".replace(",", "\u202f") + f".{cents % 100:02d}\u00a0€"


def name_of(sku: str) -> str:
    """What people call the product; its number where the catalogue does not know it."""
    return BY_SKU[sku].name if sku in BY_SKU else sku
