"""Invented products, orders and parcels; the same every time."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np

from sheaf.common.apps.store.models import Coupon, Order, OrderItem, Product, Refund, Shipment, Shopper

__all__ = ["seed"]

PRODUCTS = [  # name, category
    ("Ash cutting board", "kitchen"), ("Bamboo bath mat", "bath"), ("Copper kettle", "kitchen"),
    ("Cork building blocks", "toys"), ("Garden twine", "garden"), ("Glass pendant lamp", "lighting"),
    ("Herb scissors", "kitchen"), ("Linen towel", "bath"), ("Oak plant stand", "garden"), ("Paper lantern", "lighting"),
    ("Ribbed soap dish", "bath"), ("Seed markers", "garden"), ("Stoneware bowl", "kitchen"), ("Tin robot", "toys"),
    ("Watering can", "garden"), ("Wooden train", "toys"), ("Wool dryer balls", "bath"), ("Zinc table lamp", "lighting"),
]  # fmt: skip
SHOPPERS = [
    ("Amara Nwosu", "Leeds"), ("Boris Klein", "Graz"), ("Clara Donati", "Parma"), ("Dmitri Volkov", "Riga"),
    ("Elena Pires", "Braga"), ("Finn Gallagher", "Cork"), ("Gwen Maddox", "Bath"), ("Henrik Dahl", "Bergen"),
    ("Isla Munro", "Perth"), ("Jamal Carter", "Dover"),
]  # fmt: skip
STREETS = ["Mill Lane", "Station Road", "Harbour Street", "Elm Row", "Castle Hill"]
COUPONS = [("AUTUMN10", 10), ("BLOOM15", 15), ("FREESHIP", 5), ("LOYAL20", 20), ("OPENING25", 25), ("WINTER10", 10)]
STATUS = ["paid", "new", "shipped", "paid", "delivered", "paid", "cancelled"]
FIRST = date(2024, 2, 1)


def seed() -> None:
    """Fills the empty tables: 18 products, 10 shoppers, 35 orders, their parcels and refunds, 6 coupons."""
    rng = np.random.default_rng(2024_04)
    Product.objects.bulk_create(
        Product(id=i, name=name, sku=f"{category[:2].upper()}-{300 + i}", category=category, stock=int(rng.integers(0, 90)),
                price=Decimal(int(rng.integers(400, 9000))) / 100)
        for i, (name, category) in enumerate(PRODUCTS, 1)
    )  # fmt: skip
    Shopper.objects.bulk_create(
        Shopper(id=i, name=name, city=city, newsletter=i % 3 == 0, email=f"{name.split()[0].lower()}@mail.example")
        for i, (name, city) in enumerate(SHOPPERS, 1)
    )
    orders, items, parcels, refunds = [], [], [], []
    for i in range(1, 36):
        shopper, day, status = 1 + (i * 3) % 10, FIRST + timedelta(days=i), STATUS[i % 7]
        orders.append(Order(id=i, number=f"S-{7000 + i}", shopper_id=shopper, placed_on=day, status=status,
                            street=f"{3 + i} {STREETS[i % 5]}", city=SHOPPERS[shopper - 1][1]))  # fmt: skip
        items += [OrderItem(order_id=i, product_id=1 + (i * 5 + 4 * k) % 18, quantity=1 + (i + k) % 3) for k in range(1 + i % 2)]
        if status in ("shipped", "delivered"):
            parcels.append(Shipment(order_id=i, carrier=["swift", "green", "post"][i % 3], tracking_number=f"TRK{88000 + 7 * i}",
                                    sent_on=day + timedelta(days=1)))  # fmt: skip
        if status == "cancelled":
            refunds.append(Refund(order_id=i, reason="unwanted", amount=Decimal(int(rng.integers(500, 9000))) / 100))
    Order.objects.bulk_create(orders)
    OrderItem.objects.bulk_create(items)
    Shipment.objects.bulk_create(parcels)
    Refund.objects.bulk_create(refunds)
    Coupon.objects.bulk_create(
        Coupon(code=code, percent_off=percent, starts_on=FIRST, ends_on=FIRST + timedelta(days=30 * (1 + i % 4)))
        for i, (code, percent) in enumerate(COUPONS)
    )
