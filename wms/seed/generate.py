"""What a tenant is made of: SKUs, locations, opening balances, customers. Pure: numbers in, rows out, each by itself,
so that larger numbers give the same rows and more.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple

HISTORY_DAYS = 45
"""Opening receipts are spread over so many days before now."""

PARETO = 1.16
"""Shape of demand over SKUs: log 5 / log 4, at which a fifth of them makes four fifths of it (the 80/20 rule)."""
CLASS_A, CLASS_B = 0.20 ** (-1 / PARETO), 0.50 ** (-1 / PARETO)
"""Demand from which a SKU is of class A (the first fifth of the SKUs) or B (up to a half): quantiles of the
distribution, not of one sample, so that a SKU keeps its class when others are added."""

# Name, unit, grams of a piece.
# fmt: off
_THINGS = (
    ("Parafuso", "un", 20), ("Rolamento", "un", 350), ("Correia", "un", 400), ("Filtro de óleo", "un", 450),
    ("Pastilha de freio", "un", 900), ("Lâmpada", "un", 80), ("Cabo elétrico", "m", 120), ("Disjuntor", "un", 250),
    ("Tinta acrílica", "l", 1300), ("Luva de proteção", "par", 110), ("Caixa de papelão", "un", 300),
    ("Fita adesiva", "un", 150), ("Mangueira", "m", 220), ("Válvula", "un", 600), ("Sensor de pressão", "un", 130),
    ("Chave de fenda", "un", 180), ("Furadeira", "un", 1900), ("Bateria", "un", 14000), ("Pneu", "un", 9000),
    ("Amortecedor", "un", 3200),
)
_QUALITIES = (
    "aço inox", "reforçado", "compacto", "industrial", "leve", "alta pressão", "automotivo", "econômico",
    "profissional", "resistente à água",
)
CITIES = (
    "São Paulo", "Recife", "Curitiba", "Belo Horizonte", "Porto Alegre", "Salvador", "Fortaleza", "Manaus",
)
_TRADES = ("Comercial", "Distribuidora", "Oficina", "Atacado", "Mercado", "Construtora", "Autopeças", "Ferragens")
_FAMILIES = (
    "Silva", "Araújo", "Conceição", "Gonçalves", "Magalhães", "Ribeiro", "Simões", "Tavares", "Valença", "Brandão",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Size:
    """How much; `seed` chooses which data. A warehouse gets `orders` in the `months` (of 30 days) before now."""

    tenants: int
    warehouses: int
    """Per tenant."""
    skus: int
    """Per tenant."""
    seed: int
    orders: int = 0
    """Per warehouse; none: no history but the opening receipts."""
    months: int = 3


SCALES = {
    "small": Size(2, 2, 500, 1, orders=500, months=3),
    "medium": Size(3, 3, 10_000, 1, orders=15_000, months=12),
    "large": Size(5, 4, 50_000, 1, orders=75_000, months=24),
}


class Sku(NamedTuple):
    """A row of skus."""

    code: str
    name: str
    barcode: str
    unit: str
    weight_g: int
    abc_class: str
    image: str


def sku_code(number: int) -> str:
    """The code of the SKU number 1, 2, …"""
    return f"SKU-{number:06d}"


def demand(seed: int, tenant: int, number: int) -> float:
    """How much a SKU is asked for, relative to others, from 1: Pareto-distributed."""
    return Random(f"{seed}:{tenant}:demand:{number}").paretovariate(PARETO)


def abc_class(asked: float) -> str:
    """The ABC class of a SKU with this demand."""
    return "A" if asked >= CLASS_A else "B" if asked >= CLASS_B else "C"


def barcode(tenant: int, number: int) -> str:
    """An EAN-13 of the Brazilian range (789): 12 digits and the check digit of GS1 General Specifications, 7.9."""
    digits = f"789{tenant:03d}{number:06d}"
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def skus(size: Size, tenant: int) -> Iterator[Sku]:
    """Every SKU of a tenant; its image is named after what it is."""
    for number in range(1, size.skus + 1):
        random = Random(f"{size.seed}:{tenant}:sku:{number}")
        thing, unit, grams = random.choice(_THINGS)
        yield Sku(
            code=sku_code(number),
            name=f"{thing} {random.choice(_QUALITIES)} {random.randint(1, 500)} mm",
            barcode=barcode(tenant, number),
            unit=unit,
            weight_g=max(1, round(grams * random.uniform(0.5, 2))),
            abc_class=abc_class(demand(size.seed, tenant, number)),
            image=_slug(thing),
        )


def location(number: int) -> tuple[str, str, int, int]:
    """(code, aisle, level, position) of location 0, 1, …: 50 positions of 4 levels make an aisle."""
    aisle, rest = divmod(number, 200)
    level, position = divmod(rest, 50)
    letters = chr(ord("A") + aisle % 26) + (str(aisle // 26) if aisle >= 26 else "")
    return f"{letters}-{level + 1}-{position + 1}", letters, level + 1, position + 1


def capacity(level: int) -> int:
    """Units that fit at a location of a level 1 to 4: less, the higher."""
    return 70_000 - 10_000 * level


def places(size: Size, tenant: int, warehouse: int, number: int) -> list[int]:
    """The locations, by number, at which a SKU has stock in a warehouse 0, 1, …: one or two."""
    own = (number - 1) // 2 % location_count(size)
    random = Random(f"{size.seed}:{tenant}:{warehouse}:balance:{number}")
    return sorted({own, own // 2} if random.random() < 0.5 else {own})


def balances(
    size: Size, tenant: int, warehouse: int, until: datetime
) -> Iterator[tuple[str, str, int, datetime]]:
    """(SKU, location, units, received at) of the opening balances of one warehouse."""
    for number in range(1, size.skus + 1):
        random = Random(f"{size.seed}:{tenant}:{warehouse}:opening:{number}")
        for place in places(size, tenant, warehouse, number):
            # Few SKUs make most of the stock, as ABC classes have it.
            units = int(10 + 1000 * random.paretovariate(1.2)) % 100_000 + 1
            received = until - timedelta(seconds=random.randint(0, HISTORY_DAYS * 86_400))
            yield sku_code(number), location(place)[0], units, received


def location_count(size: Size) -> int:
    """Locations per warehouse: one for two SKUs, at least an aisle."""
    return min(20_000, max(200, (size.skus + 1) // 2))


def customers(size: Size, tenant: int) -> Iterator[tuple[str, str, str]]:
    """(code, name, city) of every customer of a tenant: one for ten SKUs, at least 20."""
    for number in range(1, min(20_000, max(20, size.skus // 10)) + 1):
        random = Random(f"{size.seed}:{tenant}:customer:{number}")
        name = f"{random.choice(_TRADES)} {random.choice(_FAMILIES)} {number} Ltda"
        yield f"CUST-{number:06d}", name, random.choice(CITIES)


def prices(size: Size, tenant: int) -> list[int]:
    """What a piece of the SKU number 1, 2, … costs, in cents."""
    random = Random(f"{size.seed}:{tenant}:prices")
    return [random.randint(150, 90_000) for _ in range(size.skus)]


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return plain.lower().replace(" ", "-")
