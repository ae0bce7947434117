"""What the shop sells and how much of it is on the shelf when the shop opens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    sku: str
    name: str
    price: int
    initial_stock: int


PRODUCTS = (
    Product("flour-rye", "Rye flour, 1 kg", 349, 500_000),
    Product("flour-spelt", "Spelt flour, 1 kg", 429, 500_000),
    Product("oats", "Rolled oats, 500 g", 259, 500_000),
    Product("semolina", "Durum semolina, 1 kg", 319, 500_000),
    Product("hand-mill", "Hand mill, beech", 8900, 60),
    Product("millstone", "Millstone, granite, 30 cm", 24900, 12),
)
BY_SKU = {product.sku: product for product in PRODUCTS}


def money(cents: int) -> str:
    """Cents as people write them: 1234567 is '12 345.67 €'."""
    return f"{cents // 100:,}".replace(",", "\u202f") + f".{cents % 100:02d}\u00a0€"
